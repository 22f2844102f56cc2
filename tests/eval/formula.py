"""Numbers that tests and the scripts that record for them both make (support_formula.h)."""
import numpy as np


def formula(count, stream, first=0):
    """[count] float32 in [0, 1): entries first, first + 1, ... of a stream."""
    with np.errstate(over="ignore"):
        x = np.arange(first, first + count, dtype=np.uint32) * np.uint32(2654435761)
        x += np.uint32(stream) * np.uint32(40503) + np.uint32(1)
        x ^= x >> np.uint32(16)
        x *= np.uint32(2246822519)
        x ^= x >> np.uint32(13)
        x *= np.uint32(3266489917)
        x ^= x >> np.uint32(16)
    return (x >> np.uint32(8)).astype(np.float32) / np.float32(2 ** 24)
