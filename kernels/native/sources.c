/* Which sources this library was compiled from: setup.py gives what sources.py makes of them. */
const char *sources(void) { return SOURCES; }
