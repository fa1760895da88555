"""Numbers as figures and pages write them."""


def number(value: float, digits: int = 3) -> str:
    """1e+18 as 1e18, 12300 as 1.23e4."""
    text = f"{value:.{digits}g}"
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
