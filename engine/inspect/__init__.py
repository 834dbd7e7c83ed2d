"""Looking into a network: what its layers see in a picture, as one page for a browser."""
