"""What is known of each source of images before any of it is read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Name in titles, numbers of training and test images, shape (H, W, C), bytes of a pixel as kept, and classes.

    Classes have names here where titles need them: a part of the classes is often studied, and numbers say little.
    """

    title: str
    train: int
    test: int
    shape: tuple[int, int, int]
    pixel_bytes: int
    classes: int
    class_names: tuple[str, ...] = ()

    def named(self, label: int) -> str:
        """Class of a label, for titles: a name if there is one."""
        return self.class_names[label] if label < len(self.class_names) else str(label)


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SOURCES = {
    "digits": Source("Digits", 1397, 400, (8, 8, 1), 4, 10),
    "mnist": Source("MNIST", 60_000, 10_000, (28, 28, 1), 1, 10),
    "fashion_mnist": Source("Fashion-MNIST", 60_000, 10_000, (28, 28, 1), 1, 10),
    "cifar10": Source("CIFAR-10", 50_000, 10_000, (32, 32, 3), 1, 10, _CIFAR10),
    "cifar100": Source("CIFAR-100", 50_000, 10_000, (32, 32, 3), 1, 100),
    "imagenette": Source("ImageNette", 9469, 3925, (160, 160, 3), 1, 10),
}
"""By the name that ``data.<name>.source`` takes."""
