"""The training step of ``step.py`` on a GPU: one program per run, a chunk of steps in one launch.

A step is a row of phases, each spread over the program's threads. What a phase leaves for the next
lies in the run's own ``scratch``, which the caches hold; a barrier stands between any two phases,
and within a phase no thread reads what another one writes. A few images at a time go forward and
backward, so that there is little of it. Sums of products are float32 throughout (``ieee``). The
module is long because a kernel is one: what it calls is compiled into it.

Layouts, the last axis contiguous: images (image, row, column, channel); filters (tap, channel in,
channel out); the linear layer (pixel, class, channel); coordinates in E (orbit, inner), inner
running over the pairs of channels, or of class and channel. Channels are taken LANES at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

LANES = tl.constexpr(16)  # the least that a product of matrices takes
ROWS = tl.constexpr(128)  # pixels in a product of matrices
TILE = tl.constexpr(1024)  # numbers at a time where each is computed alone
EPSILON = tl.constexpr(1e-5)  # of the normalization, as in torch


@triton.jit
def tanh(x):
    # x P(x^2) / Q(x^2), as in compiled.cpp; NaN stays NaN.
    x = tl.where(x > 8.0, 8.0, x)
    x = tl.where(x < -8.0, -8.0, x)
    u = x * x
    p = u * 1.5230762002478554e-08 + 2.189490614311357e-05
    p = (p * u + 0.003571612745230595) * u + 0.13444510352772945
    p = p * u + 0.9999999935801351
    q = u * 8.522586147053161e-07 + 0.000341131616278165
    q = (q * u + 0.026164498864034876) * u + 0.46777837676634276
    q = q * u + 1.0
    return x * p / q


@triton.jit
def box_pixels(images, rows, box, count, SIDE: tl.constexpr, KERNEL: tl.constexpr):
    """The 2x2 means of the padded images, scaled to [0, 1]."""
    PADDING: tl.constexpr = KERNEL // 2
    BOX: tl.constexpr = SIDE + 2 * PADDING - 1
    for start in range(0, count * BOX * BOX, TILE):
        at = start + tl.arange(0, TILE)
        inside = at < count * BOX * BOX
        y, x = at // BOX % BOX - PADDING, at % BOX - PADDING
        row = tl.load(rows + at // (BOX * BOX), mask=inside, other=0)
        total = tl.zeros([TILE], tl.int32)
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                v, u = y + dy, x + dx
                here = inside & (v >= 0) & (v < SIDE) & (u >= 0) & (u < SIDE)
                pixel = tl.load(images + row * (SIDE * SIDE) + v * SIDE + u, mask=here, other=0)
                total += pixel.to(tl.int32)
        tl.store(box + at, total.to(tl.float32) * (0.25 / 255.0), mask=inside)


@triton.jit
def box_features(
    tanhs, stats, box, count, IN: tl.constexpr, SIDE: tl.constexpr, KERNEL: tl.constexpr
):
    """The 2x2 means of the padded features, which are normalized on the way."""
    PADDING: tl.constexpr = KERNEL // 2
    BOX: tl.constexpr = SIDE + 2 * PADDING - 1
    for start in range(0, count * BOX * BOX * IN, TILE):
        at = start + tl.arange(0, TILE)
        inside = at < count * BOX * BOX * IN
        c, n = at % IN, at // (BOX * BOX * IN)
        y, x = at // (BOX * IN) % BOX - PADDING, at // IN % BOX - PADDING
        mean = tl.load(stats + n * 2 * IN + c, mask=inside, other=0.0)
        scale = tl.load(stats + (n * 2 + 1) * IN + c, mask=inside, other=0.0)
        total = tl.zeros([TILE], tl.float32)
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                v, u = y + dy, x + dx
                here = inside & (v >= 0) & (v < SIDE) & (u >= 0) & (u < SIDE)
                t = tl.load(tanhs + ((n * SIDE + v) * SIDE + u) * IN + c, mask=here, other=0.0)
                total += tl.where(here, t - mean, 0.0)
        tl.store(box + at, total * scale * 0.25, mask=inside)


@triton.jit
def patches(box, r, valid, k, IN: tl.constexpr, SIDE: tl.constexpr, KERNEL: tl.constexpr):
    """For the output pixels ``r``, what the filters' entries ``k`` = (tap, channel) are put on."""
    BOX: tl.constexpr = SIDE + 2 * (KERNEL // 2) - 1
    HALF: tl.constexpr = SIDE // 2
    n, y, x = r // (HALF * HALF), r // HALF % HALF, r % HALF
    tap = k // IN
    origin = ((n * BOX + 2 * y) * BOX + 2 * x) * IN
    beside = (tap // KERNEL * BOX + tap % KERNEL) * IN + k % IN
    here = valid[:, None] & (k < KERNEL * KERNEL * IN)[None, :]
    return tl.load(box + origin[:, None] + beside[None, :], mask=here, other=0.0)


@triton.jit
def convolve(
    box,
    weight,
    tanhs,
    count,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    SIDE: tl.constexpr,
    KERNEL: tl.constexpr,
):
    """The filters at every second place, then tanh."""
    INNER: tl.constexpr = KERNEL * KERNEL * IN
    total = count * (SIDE // 2) * (SIDE // 2)
    for start in range(0, total, ROWS):
        r = start + tl.arange(0, ROWS)
        for first in range(0, OUT, LANES):
            o = first + tl.arange(0, LANES)
            sums = tl.zeros([ROWS, LANES], tl.float32)
            for at in range(0, INNER, LANES):
                k = at + tl.arange(0, LANES)
                here = (k < INNER)[:, None] & (o < OUT)[None, :]
                filters = tl.load(weight + k[:, None] * OUT + o[None, :], mask=here, other=0.0)
                patch = patches(box, r, r < total, k, IN, SIDE, KERNEL)
                sums = tl.dot(patch, filters, sums, input_precision="ieee")
            here = (r < total)[:, None] & (o < OUT)[None, :]
            tl.store(tanhs + r[:, None] * OUT + o[None, :], tanh(sums), mask=here)


@triton.jit
def normalize(tanhs, stats, count, OUT: tl.constexpr, COUNT: tl.constexpr, IMAGES: tl.constexpr):
    """The mean over the pixels and the factor of the normalization, per image and channel."""
    n = tl.arange(0, IMAGES)[:, None, None]
    for first in range(0, OUT, LANES):
        c = first + tl.arange(0, LANES)[None, None, :]
        total = tl.zeros([IMAGES, LANES, LANES], tl.float32)
        for start in range(0, COUNT, LANES):
            p = start + tl.arange(0, LANES)[None, :, None]
            here = (n < count) & (p < COUNT) & (c < OUT)
            total += tl.load(tanhs + (n * COUNT + p) * OUT + c, mask=here, other=0.0)
        mean = tl.sum(total, 1) / COUNT
        total = tl.zeros([IMAGES, LANES, LANES], tl.float32)
        for start in range(0, COUNT, LANES):
            p = start + tl.arange(0, LANES)[None, :, None]
            here = (n < count) & (p < COUNT) & (c < OUT)
            t = tl.load(tanhs + (n * COUNT + p) * OUT + c, mask=here, other=0.0)
            difference = tl.where(here, t - mean[:, None, :], 0.0)
            total += difference * difference
        scale = 1.0 / tl.sqrt(tl.sum(total, 1) / COUNT + EPSILON)
        image = tl.arange(0, IMAGES)[:, None]
        channel = first + tl.arange(0, LANES)[None, :]
        here = (image < count) & (channel < OUT)
        tl.store(stats + image * 2 * OUT + channel, mean, mask=here)
        tl.store(stats + (image * 2 + 1) * OUT + channel, scale, mask=here)


@triton.jit
def last_features(tanhs, stats, features, count, OUT: tl.constexpr, COUNT: tl.constexpr):
    """The normalized features that the linear layer takes."""
    for start in range(0, count * COUNT * OUT, TILE):
        at = start + tl.arange(0, TILE)
        inside = at < count * COUNT * OUT
        n, c = at // (COUNT * OUT), at % OUT
        mean = tl.load(stats + n * 2 * OUT + c, mask=inside, other=0.0)
        scale = tl.load(stats + (n * 2 + 1) * OUT + c, mask=inside, other=0.0)
        t = tl.load(tanhs + at, mask=inside, other=0.0)
        tl.store(features + at, (t - mean) * scale, mask=inside)


@triton.jit
def classify(
    features,
    weight,
    logits,
    count,
    IN: tl.constexpr,
    COUNT: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """The linear layer."""
    WIDE: tl.constexpr = 128
    for n in range(count):
        for first in range(0, CLASSES, LANES):
            k = first + tl.arange(0, LANES)
            sums = tl.zeros([LANES, WIDE], tl.float32)
            for start in range(0, COUNT * IN, WIDE):
                q = start + tl.arange(0, WIDE)
                feature = tl.load(features + n * COUNT * IN + q, mask=q < COUNT * IN, other=0.0)
                at = (q // IN * CLASSES * IN + q % IN)[None, :] + (k * IN)[:, None]
                here = (k < CLASSES)[:, None] & (q < COUNT * IN)[None, :]
                sums += tl.load(weight + at, mask=here, other=0.0) * feature[None, :]
            tl.store(logits + n * CLASSES + k, tl.sum(sums, 1), mask=k < CLASSES)


@triton.jit
def entropy(
    logits,
    slopes,
    labels,
    count,
    CLASSES: tl.constexpr,
    IMAGES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The sum of the cross entropies; their gradients go to ``slopes``."""
    n, k = tl.arange(0, IMAGES), tl.arange(0, WIDTH)
    label = tl.load(labels + n, mask=n < count, other=0)
    here = (n < count)[:, None] & (k < CLASSES)[None, :]
    x = tl.load(logits + n[:, None] * CLASSES + k[None, :], mask=here, other=0.0)
    x = tl.where((k < CLASSES)[None, :], x, float("-inf"))
    largest = tl.max(x, 1)
    exponential = tl.exp(x - largest[:, None])
    total = tl.sum(exponential, 1)
    hit = k[None, :] == label[:, None]
    slope = exponential / total[:, None] - hit.to(tl.float32)
    tl.store(slopes + n[:, None] * CLASSES + k[None, :], slope, mask=here)
    loss = tl.log(total) + largest - tl.sum(tl.where(hit, x, 0.0), 1)
    return tl.sum(tl.where(n < count, loss, 0.0), 0)


@triton.jit
def linear_gradients(
    features,
    weight,
    slopes,
    gradient,
    slope,
    first,
    count,
    IN: tl.constexpr,
    COUNT: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Adds to the linear layer's gradient, after the first images; the features' is ``slope``."""
    for start in range(0, COUNT * CLASSES * IN, TILE):
        at = start + tl.arange(0, TILE)
        inside = at < COUNT * CLASSES * IN
        k, q = at // IN % CLASSES, at // (CLASSES * IN) * IN + at % IN
        sums = tl.load(gradient + at, mask=inside & (first > 0), other=0.0)
        for n in range(count):
            feature = tl.load(features + n * COUNT * IN + q, mask=inside, other=0.0)
            sums += tl.load(slopes + n * CLASSES + k, mask=inside, other=0.0) * feature
        tl.store(gradient + at, sums, mask=inside)
    for start in range(0, count * COUNT * IN, TILE):
        at = start + tl.arange(0, TILE)
        inside = at < count * COUNT * IN
        n, p, c = at // (COUNT * IN), at // IN % COUNT, at % IN
        sums = tl.zeros([TILE], tl.float32)
        for k in range(CLASSES):
            w = tl.load(weight + (p * CLASSES + k) * IN + c, mask=inside, other=0.0)
            sums += w * tl.load(slopes + n * CLASSES + k, mask=inside, other=0.0)
        tl.store(slope + at, sums, mask=inside)


@triton.jit
def pointwise_gradient(
    slope, tanhs, stats, count, OUT: tl.constexpr, COUNT: tl.constexpr, IMAGES: tl.constexpr
):
    """From the gradient of the normalized features to that of the convolution, in place."""
    n = tl.arange(0, IMAGES)[:, None, None]
    for first in range(0, OUT, LANES):
        c = first + tl.arange(0, LANES)[None, None, :]
        known = (n < count) & (c < OUT)
        mean = tl.load(stats + n * 2 * OUT + c, mask=known, other=0.0)
        scale = tl.load(stats + (n * 2 + 1) * OUT + c, mask=known, other=0.0)
        sums = tl.zeros([IMAGES, LANES, LANES], tl.float32)
        products = tl.zeros([IMAGES, LANES, LANES], tl.float32)
        for start in range(0, COUNT, LANES):
            p = start + tl.arange(0, LANES)[None, :, None]
            at, here = (n * COUNT + p) * OUT + c, known & (p < COUNT)
            t = tl.load(tanhs + at, mask=here, other=0.0)
            s = tl.load(slope + at, mask=here, other=0.0)
            sums += s
            products += s * (t - mean) * scale
        middle = (tl.sum(sums, 1) / COUNT)[:, None, :]
        along = (tl.sum(products, 1) / COUNT)[:, None, :]
        for start in range(0, COUNT, LANES):
            p = start + tl.arange(0, LANES)[None, :, None]
            at, here = (n * COUNT + p) * OUT + c, known & (p < COUNT)
            t = tl.load(tanhs + at, mask=here, other=0.0)
            s = tl.load(slope + at, mask=here, other=0.0)
            g = (s - middle - (t - mean) * scale * along) * scale * (1.0 - t * t)
            tl.store(slope + at, g, mask=here)


@triton.jit
def filter_gradient(
    box,
    slope,
    gradient,
    first,
    count,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    SIDE: tl.constexpr,
    KERNEL: tl.constexpr,
):
    """Adds to the filters' gradient, after the first images."""
    INNER: tl.constexpr = KERNEL * KERNEL * IN
    WIDE: tl.constexpr = 64 if INNER > 32 else 16
    PARTS: tl.constexpr = 128 // WIDE
    total = count * (SIDE // 2) * (SIDE // 2)
    for at in range(0, INNER, WIDE):
        k = at + tl.arange(0, WIDE)
        for begin in range(0, OUT, LANES):
            o = begin + tl.arange(0, LANES)
            parts = tl.zeros([PARTS, WIDE, LANES], tl.float32)
            for start in range(0, total, PARTS * LANES):
                r = start + tl.arange(0, PARTS * LANES)
                patch = patches(box, r, r < total, k, IN, SIDE, KERNEL)
                here = (r < total)[:, None] & (o < OUT)[None, :]
                g = tl.load(slope + r[:, None] * OUT + o[None, :], mask=here, other=0.0)
                patch = tl.permute(tl.reshape(patch, [PARTS, LANES, WIDE]), (0, 2, 1))
                g = tl.reshape(g, [PARTS, LANES, LANES])
                parts = tl.dot(patch, g, parts, input_precision="ieee")
            sums = tl.sum(parts, 0)
            target = gradient + k[:, None] * OUT + o[None, :]
            here = (k < INNER)[:, None] & (o < OUT)[None, :]
            sums += tl.load(target, mask=here & (first > 0), other=0.0)
            tl.store(target, sums, mask=here)


@triton.jit
def box_gradient(
    slope,
    weight,
    back,
    count,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    SIDE: tl.constexpr,
    KERNEL: tl.constexpr,
):
    """The gradient of the boxed features.

    The filter's tap i lies on box 2 y + i: an even box meets the even taps, an odd one the odd.
    """
    BOX: tl.constexpr = SIDE + 2 * (KERNEL // 2) - 1
    HALF: tl.constexpr = SIDE // 2
    for parity in range(4):
        a, b = parity // 2, parity % 2
        high, wide = (BOX - a + 1) // 2, (BOX - b + 1) // 2
        down, right = (KERNEL - a + 1) // 2, (KERNEL - b + 1) // 2
        total = count * high * wide
        for start in range(0, total, ROWS):
            r = start + tl.arange(0, ROWS)
            n, y, x = r // (high * wide), r // wide % high, r % wide
            for begin in range(0, IN, LANES):
                c = begin + tl.arange(0, LANES)
                sums = tl.zeros([ROWS, LANES], tl.float32)
                for tap in range(down * right):
                    i, j = tap // right, tap % right
                    v, u = y - i, x - j
                    met = (r < total) & (v >= 0) & (v < HALF) & (u >= 0) & (u < HALF)
                    origin = ((n * HALF + v) * HALF + u) * OUT
                    filters = weight + ((a + 2 * i) * KERNEL + b + 2 * j) * (IN * OUT)
                    for first in range(0, OUT, LANES):
                        o = first + tl.arange(0, LANES)
                        here = met[:, None] & (o < OUT)[None, :]
                        g = tl.load(slope + origin[:, None] + o[None, :], mask=here, other=0.0)
                        here = (o < OUT)[:, None] & (c < IN)[None, :]
                        at = c[None, :] * OUT + o[:, None]
                        w = tl.load(filters + at, mask=here, other=0.0)
                        sums = tl.dot(g, w, sums, input_precision="ieee")
                at = ((n * BOX + 2 * y + a) * BOX + 2 * x + b) * IN
                here = (r < total)[:, None] & (c < IN)[None, :]
                tl.store(back + at[:, None] + c[None, :], sums, mask=here)


@triton.jit
def unbox(back, slope, count, IN: tl.constexpr, SIDE: tl.constexpr, KERNEL: tl.constexpr):
    """The gradient of the features from that of their boxes."""
    PADDING: tl.constexpr = KERNEL // 2
    BOX: tl.constexpr = SIDE + 2 * PADDING - 1
    for start in range(0, count * SIDE * SIDE * IN, TILE):
        at = start + tl.arange(0, TILE)
        inside = at < count * SIDE * SIDE * IN
        c, n = at % IN, at // (SIDE * SIDE * IN)
        v, u = at // (SIDE * IN) % SIDE + PADDING, at // IN % SIDE + PADDING
        total = tl.zeros([TILE], tl.float32)
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                y, x = v - dy, u - dx
                here = inside & (y >= 0) & (y < BOX) & (x >= 0) & (x < BOX)
                total += tl.load(back + ((n * BOX + y) * BOX + x) * IN + c, mask=here, other=0.0)
        tl.store(slope + at, total * 0.25, mask=inside)


@triton.jit
def update(
    table,
    gradient,
    equivariant,
    outside,
    whole,
    scale,
    rate,
    gamma,
    ORBITS: tl.constexpr,
    INSIDE: tl.constexpr,
    INNER: tl.constexpr,
    MEMBERS: tl.constexpr,
):
    """a <- a - rate scale grad_a R,  b <- b - rate (scale grad_b R + gamma b),  weight = a + b.

    A gamma of infinity is a mask: b is 0.
    ``equivariant`` holds a, orthonormal coordinates; ``outside`` b, the part outside E itself;
    ``table`` the members of every orbit, -1 for none. The first INSIDE orbits have a part in E.
    Returns |b|^2 after the update.
    """
    WIDE: tl.constexpr = 512
    free = gamma < float("inf")
    gamma = tl.where(free, gamma, 0.0)
    squares = tl.zeros([WIDE], tl.float32)
    for start in range(0, ORBITS * INNER, WIDE):
        at = start + tl.arange(0, WIDE)
        valid = at < ORBITS * INNER
        orbit, j = at // INNER, at % INNER
        total, size = tl.zeros([WIDE], tl.float32), tl.zeros([WIDE], tl.float32)
        for m in range(MEMBERS):
            entry = tl.load(table + orbit * MEMBERS + m, mask=valid, other=-1)
            total += tl.load(gradient + entry * INNER + j, mask=entry >= 0, other=0.0)
            size += (entry >= 0).to(tl.float32)
        inside = valid & (orbit < INSIDE)
        size = tl.where(valid, size, 1.0)
        root = tl.sqrt(size)
        a = tl.load(equivariant + at, mask=inside, other=0.0)
        a = tl.where(inside, a - total * (rate * scale) / root, 0.0)
        tl.store(equivariant + at, a, mask=inside)
        mean = tl.where(inside, total / size, 0.0)
        for m in range(MEMBERS):
            entry = tl.load(table + orbit * MEMBERS + m, mask=valid, other=-1)
            here, place = entry >= 0, entry * INNER + j
            b = tl.load(outside + place, mask=here, other=0.0)
            g = tl.load(gradient + place, mask=here, other=0.0)
            b = tl.where(here, b - ((g - mean) * scale + b * gamma) * rate, 0.0)
            b = tl.where(free, b, 0.0)
            tl.store(outside + place, b, mask=here)
            tl.store(whole + place, a / root + b, mask=here)
            squares += b * b
    return tl.sum(squares, 0)


@triton.jit
def forward(
    images,
    rows,
    whole,
    scratch,
    count,
    LAYERS: tl.constexpr,
    L: tl.constexpr,
    KERNEL: tl.constexpr,
    IMAGES: tl.constexpr,
):
    """Convolution ``L`` and its normalization."""
    IN: tl.constexpr = LAYERS[L][0]
    OUT: tl.constexpr = LAYERS[L][1]
    SIDE: tl.constexpr = LAYERS[L][2]
    weight, box = whole + LAYERS[L][3], scratch + LAYERS[L][4]
    tanhs, stats = scratch + LAYERS[L][5], scratch + LAYERS[L][6]
    if L == 0:
        box_pixels(images, rows, box, count, SIDE, KERNEL)
    else:
        box_features(
            scratch + LAYERS[L - 1][5], scratch + LAYERS[L - 1][6], box, count, IN, SIDE, KERNEL
        )
    tl.debug_barrier()
    convolve(box, weight, tanhs, count, IN, OUT, SIDE, KERNEL)
    tl.debug_barrier()
    normalize(tanhs, stats, count, OUT, SIDE // 2 * (SIDE // 2), IMAGES)
    tl.debug_barrier()


@triton.jit
def backward(
    whole,
    scratch,
    gradient,
    first,
    count,
    LAYERS: tl.constexpr,
    L: tl.constexpr,
    KERNEL: tl.constexpr,
    IMAGES: tl.constexpr,
):
    """From the gradient of what convolution ``L`` gave to the filters' and to its input's."""
    IN: tl.constexpr = LAYERS[L][0]
    OUT: tl.constexpr = LAYERS[L][1]
    SIDE: tl.constexpr = LAYERS[L][2]
    box, tanhs = scratch + LAYERS[L][4], scratch + LAYERS[L][5]
    stats, slope = scratch + LAYERS[L][6], scratch + LAYERS[L][7]
    pointwise_gradient(slope, tanhs, stats, count, OUT, SIDE // 2 * (SIDE // 2), IMAGES)
    tl.debug_barrier()
    filter_gradient(box, slope, gradient + LAYERS[L][3], first, count, IN, OUT, SIDE, KERNEL)
    tl.debug_barrier()
    if L > 0:  # the boxes have done their service: their gradient takes their place
        box_gradient(slope, whole + LAYERS[L][3], box, count, IN, OUT, SIDE, KERNEL)
        tl.debug_barrier()
        unbox(box, scratch + LAYERS[L - 1][7], count, IN, SIDE, KERNEL)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["steps", "batch", "group"])
def train(
    images,
    rows,
    labels,
    steps,
    batch,
    group,
    table,
    gammas,
    rates,
    equivariant,
    outside,
    whole,
    squares,
    gradient,
    scratch,
    recorded,
    scale,
    LAYERS: tl.constexpr,
    LINEAR: tl.constexpr,
    SPACES: tl.constexpr,
    SIZES: tl.constexpr,
    KERNEL: tl.constexpr,
    IMAGES: tl.constexpr,
    WIDTH: tl.constexpr,
    MEMBERS: tl.constexpr,
):
    """Train every run for ``steps`` steps.

    images: rows of bytes; rows, labels: (runs, steps, batch), of which ``group`` images go through
    at a time; table: the orbits of all layers; gammas, rates: (runs, steps); equivariant, outside,
    whole, gradient, scratch: (runs, SIZES); squares: (runs, layers), the squared distances to E;
    recorded: (runs, steps, 1 + layers), the mean cross entropy and the squared distances before the
    update; scale: of an image's risk.
    LAYERS: per convolution (channels in, channels out, side of its input, and where these begin:
    weights; boxes, tanhs, statistics, slopes in scratch); LINEAR: (channels, pixels, classes,
    weights; features, logits, slopes of the logits in scratch); SPACES: per layer (orbits, orbits
    with a part in E, inner, table, coordinates in E, weights); SIZES: (coordinates in E, weights,
    scratch) of a run; IMAGES: at least group, and WIDTH, at least the classes: powers of two;
    MEMBERS: of an orbit, at most.
    """
    DEPTH: tl.constexpr = len(LAYERS)
    run = tl.program_id(0).to(tl.int64)
    rows += run * steps * batch
    labels += run * steps * batch
    equivariant += run * SIZES[0]
    outside += run * SIZES[1]
    whole += run * SIZES[1]
    gradient += run * SIZES[1]
    scratch += run * SIZES[2]
    squares += run * (DEPTH + 1)
    recorded += run * steps * (DEPTH + 2)
    gammas += run * steps
    rates += run * steps
    CHANNELS: tl.constexpr = LINEAR[0]
    COUNT: tl.constexpr = LINEAR[1]
    CLASSES: tl.constexpr = LINEAR[2]
    features, logits = scratch + LINEAR[4], scratch + LINEAR[5]
    slopes, last = scratch + LINEAR[6], scratch + LAYERS[DEPTH - 1][7]

    for step in range(steps):
        loss = 0.0
        for first in range(0, batch, group):
            count = tl.minimum(batch - first, group)
            at = step * batch + first
            for layer in tl.static_range(DEPTH):
                forward(images, rows + at, whole, scratch, count, LAYERS, layer, KERNEL, IMAGES)
            last_features(
                scratch + LAYERS[DEPTH - 1][5],
                scratch + LAYERS[DEPTH - 1][6],
                features,
                count,
                CHANNELS,
                COUNT,
            )
            tl.debug_barrier()
            classify(features, whole + LINEAR[3], logits, count, CHANNELS, COUNT, CLASSES)
            tl.debug_barrier()
            loss += entropy(logits, slopes, labels + at, count, CLASSES, IMAGES, WIDTH)
            tl.debug_barrier()
            linear_gradients(
                features,
                whole + LINEAR[3],
                slopes,
                gradient + LINEAR[3],
                last,
                first,
                count,
                CHANNELS,
                COUNT,
                CLASSES,
            )
            tl.debug_barrier()
            for layer in tl.static_range(DEPTH):
                backward(
                    whole,
                    scratch,
                    gradient,
                    first,
                    count,
                    LAYERS,
                    DEPTH - 1 - layer,
                    KERNEL,
                    IMAGES,
                )
        tl.store(recorded + step * (DEPTH + 2), loss / batch)
        gamma, rate = tl.load(gammas + step), tl.load(rates + step)
        for layer in tl.static_range(DEPTH + 1):
            square = tl.load(squares + layer)
            tl.store(recorded + step * (DEPTH + 2) + 1 + layer, square)
            tl.debug_barrier()
            square = update(
                table + SPACES[layer][3],
                gradient + SPACES[layer][5],
                equivariant + SPACES[layer][4],
                outside + SPACES[layer][5],
                whole + SPACES[layer][5],
                scale,
                rate,
                gamma,
                SPACES[layer][0],
                SPACES[layer][1],
                SPACES[layer][2],
                MEMBERS,
            )
            tl.store(squares + layer, square)
        tl.debug_barrier()
