"""Numbers with units as people read them: durations, sizes of memory, counts of things."""


def duration(seconds: float) -> str:
    """Seconds in words that fit: "3.4 ms", "0.8 s", "47 s", "4 min 32 s", "2 h 05 min"; "-" for what is unknown."""
    if seconds != seconds:
        return "-"
    if 0 < seconds < 0.1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 9.995:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(num_bytes: float) -> str:
    """Bytes with three digits and a decimal unit: "12.3 kB", "4.56 MB", "40.2 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= 0.9995 * factor:
            return f"{num_bytes / factor:.{max(0, 3 - len(str(int(num_bytes / factor))))}f} {unit}"
    return f"{num_bytes:.0f} bytes"


def noun(count: int, word: str, plural: str | None = None) -> str:
    """ "image" for one, "images" for others; `plural` where an s is not enough."""
    return word if count == 1 else plural or word + "s"


def counted(count: int, word: str, plural: str | None = None) -> str:
    """ "1 image", "3 images"; `plural` where an s is not enough."""
    return f"{count} {noun(count, word, plural)}"
