/* Elementary functions; errors are relative, in units of 2^-24. */
#include <math.h>

/* e^x within 2: Cody-Waite reduction and the polynomial of Cephes' expf. Infinite above 88.73, 0
 * below -103.97, NaN stays. */
INLINE vf vexp(vf x)
{
    x = vmin(vset(89.0f), vmax(vset(-104.0f), x));
    vf n = vround(x * vset(1.44269504f));
    vf r = vfma(n, vset(2.12194440e-4f), vfma(n, vset(-0.693359375f), x));
    vf p = vset(1.9875691500e-4f);
    p = vfma(p, r, vset(1.3981999507e-3f));
    p = vfma(p, r, vset(8.3334519073e-3f));
    p = vfma(p, r, vset(4.1665795894e-2f));
    p = vfma(p, r, vset(1.6666665459e-1f));
    p = vfma(p, r, vset(5.0000001201e-1f));
    p = vfma(p, r * r, r + vset(1.0f));
    return vscale2(p, n);
}

/* e^x within 2 for x in -87.3..0, 0 below: for softmax, whose x is at most about 0. NaN stays. */
INLINE vf vweight(vf x)
{
    vf biased = vfma(x, vset(1.44269504f), vset(ROUNDER + 127));
    vf n = biased - vset(ROUNDER + 127);
    vf r = vfma(n, vset(2.12194440e-4f), vfma(n, vset(-0.693359375f), x));
    vf p = vset(1.38145406e-3f);
    p = vfma(p, r, vset(8.36874545e-3f));
    p = vfma(p, r, vset(4.16683890e-2f));
    p = vfma(p, r, vset(1.66665211e-1f));
    p = vfma(p, r, vset(4.99999940e-1f));
    p = vfma(p, r, vset(1.0f));
    p = vfma(p, r, vset(1.0f));
    return vscale2_unless_below(p, biased, x, vset(-87.3f));
}

INLINE vf vsigmoid(vf x)
{
    return vset(1.0f) / (vset(1.0f) + vexp(vset(0.0f) - x));
}

/* The normal distribution's Phi(x), within 8, and its density. erfc(z) e^(z^2) is t q(t) with
 * t = 1 / (1 + 0.4 z); q is the degree-8 minimax fit over all z >= 0, error 1.3e-7. */
INLINE vf vnormal(vf *density, vf x)
{
    vf z = vabs(x) * vset(0.707106781f), t = vset(1.0f) / vfma(z, vset(0.4f), vset(1.0f));
    vf q = vset(0.0502604898f);
    q = vfma(q, t, vset(-0.182895424f));
    q = vfma(q, t, vset(0.169076455f));
    q = vfma(q, t, vset(-0.00560067669f));
    q = vfma(q, t, vset(0.141428572f));
    q = vfma(q, t, vset(0.168542615f));
    q = vfma(q, t, vset(0.20784263f));
    q = vfma(q, t, vset(0.225669601f));
    q = vfma(q, t, vset(0.225675862f));
    vf e = vexp(x * x * vset(-0.5f)), tail = vset(0.5f) * t * q * e;
    *density = e * vset(0.398942280f);
    return vpositive(x, vset(1.0f) - tail, tail);
}

/* The GELU by tanh is x gate, where gate = 0.5 (1 + tanh(u)) = sigmoid(2 u); rest: 1 - gate,
 * without cancelling; slope: the derivative of 2 u. */
INLINE vf vtanh_gate(vf *rest, vf *slope, vf x)
{
    vf square = x * x, z = vset(1.59576912f) * x * vfma(square, vset(0.044715f), vset(1.0f));
    vf e = vexp(vset(0.0f) - vabs(z)), larger = vset(1.0f) / (vset(1.0f) + e);
    *slope = vset(1.59576912f) * vfma(square, vset(0.134145f), vset(1.0f));
    *rest = vpositive(z, e * larger, larger);
    return vpositive(z, larger, e * larger);
}

/* SiLU's derivative */
INLINE vf vsilu_grad(vf x)
{
    vf s = vsigmoid(x);
    return s * vfma(x, vset(1.0f) - s, vset(1.0f));
}
