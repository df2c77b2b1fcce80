"""VGG16 for CIFAR, with batch norm and one linear layer.

Simonyan, Zisserman: "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, arXiv:1409.1556.
"""

from torch import Tensor, nn

PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # channels; 0 is a pooling


class VGG(nn.Module):
    """Thirteen 3x3 convolutions and a linear layer."""

    def __init__(self, classes: int = 10):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs in PLAN:
            if outputs == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            nn.init.kaiming_normal_(layers[-3].weight, mode="fan_out", nonlinearity="relu")  # pyright: ignore
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.classifier(self.features(x).flatten(1))


def vgg16() -> VGG:
    """Return VGG16: 14,715,584 conv and linear weights."""
    return VGG()
