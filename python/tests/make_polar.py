"""The coefficients of sara/_polar.py: python make_polar.py"""
import numpy

MARGIN = 1.003  # beyond the interval they grow fast
GENTLE = 0.1    # of the interval: steeper polynomials lose in rounding what they gain in speed


def best_quintic(low, high):
    """a, b, c and the error of x (a + b x^2 + c x^4), closest to 1 on [low, high] (Remez)."""
    inner, error, before = [(3 * low + high) / 4, (low + 3 * high) / 4], 1.0, 2.0
    if low / high > 1 - 1e-4:  # the limit, where the equations are singular
        return 15 / 8 / high, -10 / 8 / high ** 3, 3 / 8 / high ** 5, 1 - low / high
    while abs(error - before) > 1e-15:
        before = error
        x = numpy.array([low, *inner, high])
        rows = numpy.stack([x, x ** 3, x ** 5, [1, -1, 1, -1]], axis=1)
        a, b, c, error = numpy.linalg.solve(rows, numpy.ones(4))
        root = numpy.sqrt(9 * b * b - 20 * a * c)
        inner = numpy.sqrt((-3 * b + numpy.array([-1, 1]) * root) / (10 * c))
    return a, b, c, error


def steps(low=1e-5, high=1.0, tolerance=3e-7):
    while 1 - low > tolerance or high - 1 > tolerance:
        a, b, c, _ = best_quintic(max(low, GENTLE * high), high * MARGIN)
        yield a, b, c
        x = numpy.geomspace(low, high, 200_001)
        y = a * x + b * x ** 3 + c * x ** 5
        low, high = y.min(), y.max()


if __name__ == "__main__":
    for coefficients in steps():
        print("    ({:.9g}, {:.9g}, {:.9g}),".format(*coefficients))
