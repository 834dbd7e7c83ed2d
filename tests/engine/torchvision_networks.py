"""Networks as torch modules that have torchvision's names and layouts, written from its papers.

`width` scales the filters as the networks of `engine/models` do; everything else is as published.
"""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (its name everywhere)

torch.set_num_threads(1)  # the cases are small; threads would wait for each other


def wide(count, width):
    return max(1, round(count * width))


class AlexNet(nn.Module):
    def __init__(self, classes, width, side):
        super().__init__()
        a, b, c, d, e, f = (wide(n, width) for n in (64, 192, 384, 256, 256, 4096))
        pool = {"kernel_size": 3, "stride": 2}
        self.features = nn.Sequential(
            nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(**pool),
            nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(**pool),
            nn.Conv2d(b, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
            nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(**pool),
        )  # fmt: skip
        left = 6 if side == 224 else 1
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(e * left * left, f), nn.ReLU(), nn.Dropout(), nn.Linear(f, f),
            nn.ReLU(), nn.Linear(f, classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class VGG16(nn.Module):
    def __init__(self, classes, width, side):
        super().__init__()
        layers, c = [], 3
        for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(count):
                layers += [nn.Conv2d(c, wide(filters, width), 3, padding=1), nn.ReLU()]
                c = wide(filters, width)
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat, f = c * (side // 32) ** 2, wide(4096, width)
        self.classifier = nn.Sequential(
            nn.Linear(flat, f), nn.ReLU(), nn.Dropout(), nn.Linear(f, f), nn.ReLU(), nn.Dropout(),
            nn.Linear(f, classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class Fire(nn.Module):
    def __init__(self, c, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(c, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return torch.cat((F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))), 1)


class SqueezeNet(nn.Module):
    def __init__(self, classes, width, side):
        super().__init__()
        c = wide(64, width)
        layers = [nn.Conv2d(3, c, 3, 2), nn.ReLU()]
        for squeeze, expand, pooled in (
            (16, 64, True), (16, 64, False), (32, 128, True), (32, 128, False), (48, 192, True),
            (48, 192, False), (64, 256, False), (64, 256, False),
        ):  # fmt: skip
            if pooled:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            layers.append(Fire(c, wide(squeeze, width), wide(expand, width)))
            c = 2 * wide(expand, width)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(c, classes, 1), nn.ReLU())

    def forward(self, x):
        return self.classifier(self.features(x)).mean((2, 3))


class Block(nn.Module):
    """A residual block; `kernels` of two (basic) or three (bottleneck) convolutions."""

    def __init__(self, c, filters, stride, kernels):
        super().__init__()
        deep = len(kernels) == 3
        strides = (1, stride, 1) if deep else (stride, 1)
        outs = (filters, filters, 4 * filters) if deep else (filters, filters)
        ins = (c, *outs[:-1])
        for i, (n, k, kernel, step) in enumerate(zip(ins, outs, kernels, strides, strict=True), 1):
            setattr(self, f"conv{i}", nn.Conv2d(n, k, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(k))
        self.count = len(kernels)
        self.downsample = None
        if stride != 1 or c != outs[-1]:
            shortcut = nn.Conv2d(c, outs[-1], 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outs[-1]))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    def __init__(self, classes, width, counts, kernels):
        super().__init__()
        c = wide(64, width)
        self.conv1 = nn.Conv2d(3, c, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        for stage, (filters, count) in enumerate(zip((64, 128, 256, 512), counts, strict=True), 1):
            blocks = []
            for block in range(count):
                stride = 2 if stage > 1 and not block else 1
                blocks.append(Block(c, wide(filters, width), stride, kernels))
                c = wide(filters, width) * (4 if len(kernels) == 3 else 1)
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(c, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def resnet18(classes, width, side):
    return ResNet(classes, width, (2, 2, 2, 2), (3, 3))


def resnet50(classes, width, side):
    return ResNet(classes, width, (3, 4, 6, 3), (1, 3, 1))


class BasicConv2d(nn.Module):
    def __init__(self, c, filters, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(c, filters, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(filters, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class GoogLeNetAuxiliary(nn.Module):
    """Only its names are of use: inference leaves it out."""

    def __init__(self, c, classes, width):
        super().__init__()
        self.conv = BasicConv2d(c, wide(128, width), 1)
        self.fc1 = nn.Linear(16 * wide(128, width), wide(1024, width))
        self.fc2 = nn.Linear(wide(1024, width), classes)


class InceptionV1(nn.Module):
    def __init__(self, c, filters):
        super().__init__()
        a, b, c3, d, e, f = filters
        self.branch1 = BasicConv2d(c, a, 1)
        self.branch2 = nn.Sequential(BasicConv2d(c, b, 1), BasicConv2d(b, c3, 3, padding=1))
        self.branch3 = nn.Sequential(BasicConv2d(c, d, 1), BasicConv2d(d, e, 3, padding=1))
        pool = nn.MaxPool2d(3, 1, 1, ceil_mode=True)
        self.branch4 = nn.Sequential(pool, BasicConv2d(c, f, 1))

    def forward(self, x):
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(x) for branch in branches], 1)


class GoogLeNet(nn.Module):
    MODULES = (
        ("3a", 64, 96, 128, 16, 32, 32), ("3b", 128, 128, 192, 32, 96, 64),
        ("4a", 192, 96, 208, 16, 48, 64), ("4b", 160, 112, 224, 24, 64, 64),
        ("4c", 128, 128, 256, 24, 64, 64), ("4d", 112, 144, 288, 32, 64, 64),
        ("4e", 256, 160, 320, 32, 128, 128), ("5a", 256, 160, 320, 32, 128, 128),
        ("5b", 384, 192, 384, 48, 128, 128),
    )  # fmt: skip

    def __init__(self, classes, width, side):
        super().__init__()
        a, b = wide(64, width), wide(192, width)
        self.conv1 = BasicConv2d(3, a, 7, 2, 3)
        self.conv2, self.conv3 = BasicConv2d(a, a, 1), BasicConv2d(a, b, 3, padding=1)
        c = b
        for name, *counts in self.MODULES:
            filters = [wide(count, width) for count in counts]
            setattr(self, f"inception{name}", InceptionV1(c, filters))
            c = filters[0] + filters[2] + filters[4] + filters[5]
            if name in ("4a", "4d"):
                head = GoogLeNetAuxiliary(c, classes, width)
                setattr(self, f"aux{1 if name == '4a' else 2}", head)
        self.fc = nn.Linear(c, classes)

    def forward(self, x):
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        for name, *_ in self.MODULES:
            x = getattr(self, f"inception{name}")(x)
            if name == "3b":
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            if name == "4e":
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        return self.fc(x.mean((2, 3)))


class Branches(nn.Module):
    """Chains of convolutions over one image; a chain's last entry may be two side by side.

    Each layer is (name, filters, kernel, padding); `pooled` is what stands beside the chains: the
    filters behind an average pool, or None for a strided max pool.
    """

    def __init__(self, c, width, chains, pooled, last_stride=1):
        super().__init__()
        self.chains, self.pooled = chains, pooled
        for chain in chains:
            n = c
            for place, layer in enumerate(chain):
                pair = layer if isinstance(layer[0], tuple) else (layer,)
                stride = last_stride if place == len(chain) - 1 else 1
                for name, filters, kernel, padding in pair:
                    setattr(
                        self, name, BasicConv2d(n, wide(filters, width), kernel, stride, padding)
                    )
                n = wide(pair[0][1], width)
        if pooled is not None:
            self.branch_pool = BasicConv2d(c, wide(pooled, width), 1)

    def forward(self, x):
        results = []
        for chain in self.chains:
            y = x
            for layer in chain:
                pair = layer if isinstance(layer[0], tuple) else (layer,)
                parts = [getattr(self, name)(y) for name, *_ in pair]
                y = torch.cat(parts, 1)
            results.append(y)
        if self.pooled is None:
            return torch.cat((*results, F.max_pool2d(x, 3, 2)), 1)
        return torch.cat((*results, self.branch_pool(F.avg_pool2d(x, 3, 1, 1))), 1)


class InceptionAuxiliary(nn.Module):
    """Only its names are of use: inference leaves it out."""

    def __init__(self, c, classes, width):
        super().__init__()
        self.conv0 = BasicConv2d(c, wide(128, width), 1)
        self.conv1 = BasicConv2d(wide(128, width), wide(768, width), 5)
        self.fc = nn.Linear(wide(768, width), classes)


def _square(c, width, pooled):
    return Branches(
        c, width,
        (
            (("branch1x1", 64, 1, 0),),
            (("branch5x5_1", 48, 1, 0), ("branch5x5_2", 64, 5, 2)),
            (("branch3x3dbl_1", 64, 1, 0), ("branch3x3dbl_2", 96, 3, 1),
             ("branch3x3dbl_3", 96, 3, 1)),
        ),
        pooled,
    )  # fmt: skip


def _sevens(c, width, n):
    row, column = ((1, 7), (0, 3)), ((7, 1), (3, 0))
    return Branches(
        c, width,
        (
            (("branch1x1", 192, 1, 0),),
            (("branch7x7_1", n, 1, 0), ("branch7x7_2", n, *row), ("branch7x7_3", 192, *column)),
            (("branch7x7dbl_1", n, 1, 0), ("branch7x7dbl_2", n, *column),
             ("branch7x7dbl_3", n, *row), ("branch7x7dbl_4", n, *column),
             ("branch7x7dbl_5", 192, *row)),
        ),
        192,
    )  # fmt: skip


def _wide(c, width):
    row, column = (384, (1, 3), (0, 1)), (384, (3, 1), (1, 0))
    return Branches(
        c, width,
        (
            (("branch1x1", 320, 1, 0),),
            (("branch3x3_1", 384, 1, 0), (("branch3x3_2a", *row), ("branch3x3_2b", *column))),
            (("branch3x3dbl_1", 448, 1, 0), ("branch3x3dbl_2", 384, 3, 1),
             (("branch3x3dbl_3a", *row), ("branch3x3dbl_3b", *column))),
        ),
        192,
    )  # fmt: skip


class InceptionV3(nn.Module):
    def __init__(self, classes, width, side):
        super().__init__()
        a, b, c, d = (wide(n, width) for n in (32, 64, 80, 192))
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = BasicConv2d(3, a, 3, 2), BasicConv2d(a, a, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(a, b, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = BasicConv2d(b, c, 1), BasicConv2d(c, d, 3)

        def total(*counts):
            return sum(wide(n, width) for n in counts)

        self.Mixed_5b = _square(d, width, 32)
        n = total(64, 64, 96, 32)
        self.Mixed_5c = _square(n, width, 64)
        n = total(64, 64, 96, 64)
        self.Mixed_5d = _square(n, width, 64)
        chains = (
            (("branch3x3", 384, 3, 0),),
            (("branch3x3dbl_1", 64, 1, 0), ("branch3x3dbl_2", 96, 3, 1),
             ("branch3x3dbl_3", 96, 3, 0)),
        )  # fmt: skip
        self.Mixed_6a = Branches(n, width, chains, None, 2)
        n += total(384, 96)
        for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            setattr(self, f"Mixed_{name}", _sevens(n, width, inner))
            n = total(192, 192, 192, 192)
        self.AuxLogits = InceptionAuxiliary(n, classes, width)
        chains = (
            (("branch3x3_1", 192, 1, 0), ("branch3x3_2", 320, 3, 0)),
            (("branch7x7x3_1", 192, 1, 0), ("branch7x7x3_2", 192, (1, 7), (0, 3)),
             ("branch7x7x3_3", 192, (7, 1), (3, 0)), ("branch7x7x3_4", 192, 3, 0)),
        )  # fmt: skip
        self.Mixed_7a = Branches(n, width, chains, None, 2)
        n += total(320, 192)
        for name in ("7b", "7c"):
            setattr(self, f"Mixed_{name}", _wide(n, width))
            n = total(320, 384, 384, 384, 384, 192)
        self.fc = nn.Linear(n, classes)

    def forward(self, x):
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        return self.fc(x.mean((2, 3)))


NETWORKS = {
    "alexnet": AlexNet, "vgg16": VGG16, "squeezenet": SqueezeNet, "resnet18": resnet18,
    "resnet50": resnet50, "googlenet-bn": GoogLeNet, "inception-v3": InceptionV3,
}  # fmt: skip
