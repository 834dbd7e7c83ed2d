"""The networks of `engine/models` written once more in torch, over our weights by our names.

Each function takes `p` and images [N,C,H,W] and returns the logits; in training the networks that
have auxiliary heads return the logits of these as well.
"""

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)

torch.set_num_threads(1)  # the cases are small; threads would wait for each other


class Parts:
    """Layers in torch over tensors in our layouts; gradients arrive in our layouts too."""

    def __init__(self, arrays, training):
        self.tensors = {n: torch.from_numpy(a.copy()) for n, a in arrays.items()}
        for name, tensor in self.tensors.items():
            tensor.requires_grad_("/running_" not in name)
        self.training = training
        self.scope = ""

    def conv(self, x, name, stride=1, padding=0, groups=1):
        name = self.scope + name
        w, b = self.tensors[f"{name}/w"], self.tensors.get(f"{name}/b")
        return F.conv2d(x, w.permute(0, 3, 1, 2), b, stride, padding, 1, groups)

    def dense(self, x, name):
        if x.ndim == 4:
            x = x.permute(0, 2, 3, 1).flatten(1)
        name = self.scope + name
        return F.linear(x, self.tensors[f"{name}/w"], self.tensors[f"{name}/b"])

    def norm(self, x, name, eps=1e-5):
        names = ("running_mean", "running_var", "gamma", "beta")
        parts = (self.tensors[f"{self.scope}{name}/{n}"] for n in names)
        return F.batch_norm(x, *parts, self.training, 0.1, eps)


def losses(logits, labels):
    """The loss of every image, [N]; labels int32 [N], an array."""
    return F.cross_entropy(logits, torch.from_numpy(labels).long(), reduction="none")


def images(x):
    """[N,H,W,C], an array → [N,C,H,W]."""
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def squeezenet(p, x):
    x = F.max_pool2d(F.relu(p.conv(x, "conv1", 2)), 3, 2, ceil_mode=True)
    for number in range(2, 10):
        x = F.relu(p.conv(x, f"fire{number}/squeeze"))
        ones = F.relu(p.conv(x, f"fire{number}/expand1x1"))
        threes = F.relu(p.conv(x, f"fire{number}/expand3x3", 1, 1))
        x = torch.cat((ones, threes), 1)
        if number in (3, 5):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    return F.relu(p.conv(x, "conv10")).mean((2, 3))


def alexnet(p, x):
    x = F.max_pool2d(F.relu(p.conv(x, "conv1", 4, 2)), 3, 2)
    x = F.max_pool2d(F.relu(p.conv(x, "conv2", 1, 2)), 3, 2)
    x = F.relu(p.conv(x, "conv3", 1, 1))
    x = F.relu(p.conv(x, "conv4", 1, 1))
    x = F.max_pool2d(F.relu(p.conv(x, "conv5", 1, 1)), 3, 2)
    return p.dense(F.relu(p.dense(F.relu(p.dense(x, "dense6")), "dense7")), "dense8")


def vgg16(p, x):
    for block, layers in enumerate((2, 2, 3, 3, 3), start=1):
        for layer in range(1, layers + 1):
            x = F.relu(p.conv(x, f"conv{block}_{layer}", 1, 1))
        x = F.max_pool2d(x, 2)
    return p.dense(F.relu(p.dense(F.relu(p.dense(x, "dense1")), "dense2")), "dense3")


def alexnet_2012(p, x):
    x = F.local_response_norm(F.relu(p.conv(x, "conv1", 4)), 5, 5e-4, 0.75, 2.0)
    x = F.relu(p.conv(F.max_pool2d(x, 3, 2), "conv2", 1, 2, groups=2))
    x = F.max_pool2d(F.local_response_norm(x, 5, 5e-4, 0.75, 2.0), 3, 2)
    x = F.relu(p.conv(x, "conv3", 1, 1))
    x = F.relu(p.conv(x, "conv4", 1, 1, groups=2))
    x = F.max_pool2d(F.relu(p.conv(x, "conv5", 1, 1, groups=2)), 3, 2)
    return p.dense(F.relu(p.dense(F.relu(p.dense(x, "dense6")), "dense7")), "dense8")


def _residual(p, x, block, layers, stride):
    """layers: (stride, padding) of each convolution."""
    y = x
    for number, (stride_here, padding) in enumerate(layers, start=1):
        y = p.conv(y, f"{block}/conv{number}", stride_here, padding)
        y = p.norm(y, f"{block}/norm{number}")
        y = F.relu(y) if number < len(layers) else y
    if f"{block}/conv_shortcut/w" in p.tensors:
        x = p.norm(p.conv(x, f"{block}/conv_shortcut", stride), f"{block}/norm_shortcut")
    return F.relu(x + y)


def _resnet(p, x, counts, shape_of_block):
    x = F.max_pool2d(F.relu(p.norm(p.conv(x, "conv1", 2, 3), "norm1")), 3, 2, 1)
    for stage, count in enumerate(counts):
        for number in range(count):
            stride = 2 if stage and not number else 1
            block = f"block{stage + 2}_{number + 1}"
            x = _residual(p, x, block, shape_of_block(stride), stride)
    return p.dense(x.mean((2, 3)), "dense")


def resnet18(p, x):
    return _resnet(p, x, (2, 2, 2, 2), lambda stride: ((stride, 1), (1, 1)))


def resnet50(p, x):
    return _resnet(p, x, (3, 4, 6, 3), lambda stride: ((1, 0), (stride, 1), (1, 0)))


def googlenet(p, x):
    heads = []
    x = F.max_pool2d(F.relu(p.conv(x, "conv1", 2, 3)), 3, 2, ceil_mode=True)
    x = F.relu(p.conv(F.local_response_norm(x, 5), "conv2_reduce"))
    x = F.local_response_norm(F.relu(p.conv(x, "conv2", 1, 1)), 5)
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):

        def layer(x, name, padding=0, module=module):
            return F.relu(p.conv(x, f"inception{module}/{name}", 1, padding))

        x = torch.cat(
            (
                layer(x, "conv1x1"),
                layer(layer(x, "conv3x3_reduce"), "conv3x3", 1),
                layer(layer(x, "conv5x5_reduce"), "conv5x5", 2),
                layer(F.max_pool2d(x, 3, 1, 1), "pool_conv"),
            ),
            1,
        )
        if module in ("4a", "4d") and p.training:
            y = F.relu(p.conv(F.avg_pool2d(x, 5, 3), f"auxiliary{module}/conv"))
            y = F.relu(p.dense(y, f"auxiliary{module}/dense1"))
            heads.append(p.dense(y, f"auxiliary{module}/dense2"))
        if module in ("3b", "4e"):
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    return p.dense(x.mean((2, 3)), "dense"), *heads


def googlenet_bn(p, x):
    heads = []

    def conv(x, name, stride=1, padding=0):
        return F.relu(p.norm(p.conv(x, name, stride, padding), f"{name}_norm", 1e-3))

    x = F.max_pool2d(conv(x, "conv1", 2, 3), 3, 2, ceil_mode=True)
    x = F.max_pool2d(conv(conv(x, "conv2_reduce"), "conv2", 1, 1), 3, 2, ceil_mode=True)
    for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        p.scope = f"inception{module}/"
        threes = conv(conv(x, "conv3x3_reduce"), "conv3x3", 1, 1)
        second = conv(conv(x, "second3x3_reduce"), "second3x3", 1, 1)
        pooled = conv(F.max_pool2d(x, 3, 1, 1), "pool_conv")
        x = torch.cat((conv(x, "conv1x1"), threes, second, pooled), 1)
        if module in ("4a", "4d") and p.training:
            p.scope = f"auxiliary{module}/"
            y = F.relu(p.dense(conv(F.avg_pool2d(x, 5, 3), "conv"), "dense1"))
            heads.append(p.dense(y, "dense2"))
        if module in ("3b", "4e"):
            x = F.max_pool2d(x, 2 if module == "4e" else 3, 2, ceil_mode=True)
    p.scope = ""
    return p.dense(x.mean((2, 3)), "dense"), *heads


def inception_v3(p, x):
    heads = []

    def conv(x, name, stride=1, padding=0):
        return F.relu(p.norm(p.conv(x, name, stride, padding), f"{name}_norm", 1e-3))

    def chain(x, branch, paddings):
        for number, padding in enumerate(paddings, start=1):
            x = conv(x, f"{branch}_{number}", 1, padding)
        return x

    def pooled(x):
        return conv(F.avg_pool2d(x, 3, 1, 1), "pool_conv")

    wide, tall = (0, 3), (3, 0)  # the padding of 1x7 and 7x1
    x = conv(conv(conv(x, "conv1", 2), "conv2"), "conv3", 1, 1)
    x = F.max_pool2d(x, 3, 2)
    x = F.max_pool2d(conv(conv(x, "conv4"), "conv5"), 3, 2)
    for p.scope in ("mixed1/", "mixed2/", "mixed3/"):
        fives, threes = chain(x, "conv5x5", (0, 2)), chain(x, "conv3x3", (0, 1, 1))
        x = torch.cat((conv(x, "conv1x1"), fives, threes, pooled(x)), 1)
    p.scope = "mixed4/"
    doubles = conv(chain(x, "double", (0, 1)), "double_3", 2)
    x = torch.cat((conv(x, "conv3x3", 2), doubles, F.max_pool2d(x, 3, 2)), 1)
    for p.scope in ("mixed5/", "mixed6/", "mixed7/", "mixed8/"):
        once = chain(x, "conv7x7", (0, wide, tall))
        twice = chain(x, "double", (0, tall, wide, tall, wide))
        x = torch.cat((conv(x, "conv1x1"), once, twice, pooled(x)), 1)
    if p.training:
        p.scope = "auxiliary/"
        y = conv(conv(F.avg_pool2d(x, 5, 3), "conv1"), "conv2")
        heads.append(p.dense(y.mean((2, 3)), "dense"))
    p.scope = "mixed9/"
    sevens = conv(chain(x, "conv7x7", (0, wide, tall)), "conv7x7_4", 2)
    threes = conv(conv(x, "conv3x3_1"), "conv3x3_2", 2)
    x = torch.cat((threes, sevens, F.max_pool2d(x, 3, 2)), 1)
    for p.scope in ("mixed10/", "mixed11/"):
        parts = [conv(x, "conv1x1")]
        for branch, y in (("conv3x3", conv(x, "conv3x3")), ("double", chain(x, "double", (0, 1)))):
            parts += [conv(y, f"{branch}_1x3", 1, (0, 1)), conv(y, f"{branch}_3x1", 1, (1, 0))]
        x = torch.cat((*parts, pooled(x)), 1)
    p.scope = ""
    return p.dense(x.mean((2, 3)), "dense"), *heads
