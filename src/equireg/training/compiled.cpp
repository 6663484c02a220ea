// The training step of step.py on a CPU, one run and one image at a time, so that all it touches
// stays in the core's own cache. compiled.py compiles it for one network, whose sizes are macros:
// CHANNELS (16,16), SIDE of the images, KERNEL (side of the filters), CLASSES.
//
// Every inner loop runs over lanes: 16 channels side by side. A layer's weights are [entry][inner]:
// entry over its grid (taps of a filter, pixels of the linear layer), inner over pairs of channels.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

constexpr int DEPTH = sizeof((int[]){CHANNELS}) / sizeof(int);
constexpr int WIDTHS[] = {1, CHANNELS};  // multiples of LANES, but for the image
constexpr int PADDING = KERNEL / 2, TAPS = KERNEL * KERNEL, PIXELS = SIDE * SIDE;
constexpr int LANES = 16;
constexpr float EPSILON = 1e-5f;

typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline Lanes load(const float* p) { return *reinterpret_cast<const Lanes*>(p); }
static inline void store(float* p, Lanes v) { *reinterpret_cast<Lanes*>(p) = v; }
static inline Lanes all(float x) { return Lanes{} + x; }

// x P(x^2) / Q(x^2), fitted to tanh on [-8, 8] with a relative error of 7e-9; NaN stays NaN.
static inline Lanes tanh(Lanes x) {
    x = x > 8.0f ? all(8.0f) : x;
    x = x < -8.0f ? all(-8.0f) : x;
    const Lanes u = x * x;
    Lanes p = u * 1.5230762002478554e-08f + 2.189490614311357e-05f;
    p = (p * u + 0.003571612745230595f) * u + 0.13444510352772945f;
    p = p * u + 0.9999999935801351f;
    Lanes q = u * 8.522586147053161e-07f + 0.000341131616278165f;
    q = (q * u + 0.026164498864034876f) * u + 0.46777837676634276f;
    q = q * u + 1.0f;
    return x * p / q;
}

// The sum of term(0) to term(COUNT - 1), in PARTS chains, so that additions need not wait in line.
template <int COUNT, int PARTS, typename Term>
static inline Lanes total(Term term) {
    Lanes sums[PARTS] = {};
    for (int p = 0; p < COUNT; p += PARTS)
#pragma GCC unroll 16
        for (int s = 0; s < PARTS; ++s) sums[s] += term(p + s);
    for (int s = 1; s < PARTS; ++s) sums[0] += sums[s];
    return sums[0];
}

// The largest divisor of n whose accumulators fit into the registers.
constexpr int strip(int n) {
    int best = 1;
    for (int d = 1; d <= 14; ++d)
        if (n % d == 0) best = d;
    return best;
}

template <int L>
struct Layer {  // convolution L: box filter, filter at every second place, tanh, normalization
    static constexpr int IN = WIDTHS[L], OUT = WIDTHS[L + 1];
    static constexpr int SIDE_IN = SIDE >> L, SIDE_OUT = SIDE >> (L + 1);
    static constexpr int BOX = SIDE_IN + 2 * PADDING - 1, COUNT = SIDE_OUT * SIDE_OUT;
    static constexpr int INNER = IN * OUT, SIZE = TAPS * INNER;
    static constexpr int STRIP = strip(SIDE_OUT);

    alignas(64) float box[BOX * BOX * IN];
    alignas(64) float tanhs[COUNT * OUT];
    alignas(64) float out[COUNT * OUT];  // normalized
    alignas(64) float back[L > 0 ? BOX * BOX * IN : 1];
    alignas(64) float transposed[L > 0 ? SIZE : 1];
    alignas(64) float rsqrt[OUT];

    // The 2x2 means of the padded input, (SIDE_IN, SIDE_IN, IN).
    void fill_box(const float* input) {
        for (int y = 0; y < BOX; ++y)
            for (int x = 0; x < BOX; ++x)
                for (int c = 0; c < IN; c += LANES) {
                    Lanes sum = {};
                    for (int v = y - PADDING; v <= y - PADDING + 1; ++v)
                        for (int u = x - PADDING; u <= x - PADDING + 1; ++u)
                            if (v >= 0 && v < SIDE_IN && u >= 0 && u < SIDE_IN)
                                sum += load(input + (v * SIDE_IN + u) * IN + c);
                    store(box + (y * BOX + x) * IN + c, sum * 0.25f);
                }
    }

    void fill_box(const uint8_t* pixels) {
        int16_t rows[BOX][SIDE_IN + 2 * PADDING] = {};
        for (int y = 0; y < BOX; ++y)
            for (int v = y - PADDING; v <= y - PADDING + 1; ++v)
                if (v >= 0 && v < SIDE_IN)
                    for (int x = 0; x < SIDE_IN; ++x) rows[y][x + PADDING] += pixels[v * SIDE_IN + x];
        for (int y = 0; y < BOX; ++y)
            for (int x = 0; x < BOX; ++x)
                box[y * BOX + x] = (rows[y][x] + rows[y][x + 1]) * (0.25f / 255.0f);
    }

    void forward(const float* weight) {
        for (int o = 0; o < OUT; o += LANES)
            for (int y = 0; y < SIDE_OUT; ++y)
                for (int x = 0; x < SIDE_OUT; x += STRIP) {
                    Lanes sums[STRIP] = {};
                    for (int i = 0; i < KERNEL; ++i)
                        for (int j = 0; j < KERNEL; ++j) {
                            const float* from = box + ((2 * y + i) * BOX + 2 * x + j) * IN;
                            const float* w = weight + (i * KERNEL + j) * INNER + o;
                            for (int c = 0; c < IN; ++c) {
                                const Lanes filter = load(w + c * OUT);
#pragma GCC unroll 16
                                for (int s = 0; s < STRIP; ++s)
                                    sums[s] += filter * from[2 * s * IN + c];
                            }
                        }
#pragma GCC unroll 16
                    for (int s = 0; s < STRIP; ++s)
                        store(tanhs + (y * SIDE_OUT + x + s) * OUT + o, tanh(sums[s]));
                }
        for (int o = 0; o < OUT; o += LANES) {  // normalization over the pixels
            const auto at = [&](int p) { return load(tanhs + p * OUT + o); };
            const Lanes mean = total<COUNT, STRIP>(at) / COUNT;
            const Lanes square = total<COUNT, STRIP>([&](int p) {
                const Lanes d = at(p) - mean;
                return d * d;
            });
            Lanes scale;
            for (int k = 0; k < LANES; ++k) scale[k] = 1.0f / std::sqrt(square[k] / COUNT + EPSILON);
            store(rsqrt + o, scale);
            for (int p = 0; p < COUNT; ++p)
                store(out + p * OUT + o, (at(p) - mean) * scale);
        }
    }

    // From the gradient of the output to that of the convolution, in place of ``gradient``.
    void backward_pointwise(float* gradient) const {
        for (int o = 0; o < OUT; o += LANES) {
            const auto slope = [&](int p) { return load(gradient + p * OUT + o); };
            const auto value = [&](int p) { return load(out + p * OUT + o); };
            const Lanes mean = total<COUNT, STRIP>(slope) / COUNT;
            const Lanes along =
                total<COUNT, STRIP>([&](int p) { return slope(p) * value(p); }) / COUNT;
            const Lanes scale = load(rsqrt + o);
            for (int p = 0; p < COUNT; ++p) {
                const Lanes t = load(tanhs + p * OUT + o);
                const Lanes g = (slope(p) - mean - value(p) * along) * scale;
                store(gradient + p * OUT + o, g * (1.0f - t * t));
            }
        }
    }

    // Adds the gradient of the weights to ``sum``.
    void backward_weight(const float* gradient, float* sum) const {
        // What the registers hold at once: the taps of a single channel, or channels of one tap.
        constexpr int ROWS = IN == 1 ? TAPS : IN;
        constexpr int PART = IN > 1 ? LANES : TAPS <= LANES ? TAPS : KERNEL;
        for (int o = 0; o < OUT; o += LANES)
            for (int tap = 0; tap < (IN == 1 ? 1 : TAPS); ++tap)
                for (int r = 0; r < ROWS; r += PART) {
                    Lanes sums[PART];
                    float* to = sum + tap * INNER + r * OUT + o;
#pragma GCC unroll 16
                    for (int k = 0; k < PART; ++k) sums[k] = load(to + k * OUT);
                    for (int y = 0; y < SIDE_OUT; ++y)
                        for (int x = 0; x < SIDE_OUT; ++x) {
                            const Lanes g = load(gradient + (y * SIDE_OUT + x) * OUT + o);
                            if constexpr (IN == 1) {
                                const float* from = box + 2 * y * BOX + 2 * x;
#pragma GCC unroll 16
                                for (int k = 0; k < PART; ++k)
                                    sums[k] += g * from[(r + k) / KERNEL * BOX + (r + k) % KERNEL];
                            } else {
                                const int i = tap / KERNEL, j = tap % KERNEL;
                                const float* from = box + ((2 * y + i) * BOX + 2 * x + j) * IN + r;
#pragma GCC unroll 16
                                for (int k = 0; k < PART; ++k) sums[k] += g * from[k];
                            }
                        }
#pragma GCC unroll 16
                    for (int k = 0; k < PART; ++k) store(to + k * OUT, sums[k]);
                }
    }

    void transpose(const float* weight) {
        for (int tap = 0; tap < TAPS; ++tap)
            for (int c = 0; c < IN; ++c)
                for (int o = 0; o < OUT; ++o)
                    transposed[tap * INNER + o * IN + c] = weight[tap * INNER + c * OUT + o];
    }

    // The gradient of the input, (SIDE_IN, SIDE_IN, IN).
    void backward_input(const float* gradient, float* input) {
        std::memset(back, 0, sizeof back);
        for (int c = 0; c < IN; c += LANES)
            for (int y = 0; y < SIDE_OUT; ++y)
                for (int x = 0; x < SIDE_OUT; x += STRIP)
                    for (int i = 0; i < KERNEL; ++i)
                        for (int j = 0; j < KERNEL; ++j) {
                            const float* from = gradient + (y * SIDE_OUT + x) * OUT;
                            const float* w = transposed + (i * KERNEL + j) * INNER + c;
                            Lanes sums[STRIP] = {};
                            for (int o = 0; o < OUT; ++o) {
                                const Lanes filter = load(w + o * IN);
#pragma GCC unroll 16
                                for (int s = 0; s < STRIP; ++s) sums[s] += filter * from[s * OUT + o];
                            }
                            float* to = back + ((2 * y + i) * BOX + 2 * x + j) * IN + c;
#pragma GCC unroll 16
                            for (int s = 0; s < STRIP; ++s)
                                store(to + 2 * s * IN, load(to + 2 * s * IN) + sums[s]);
                        }
        // A pixel v lies in the boxes v + PADDING - 1 and v + PADDING, of which there may be fewer.
        for (int v = 0; v < SIDE_IN; ++v)
            for (int u = 0; u < SIDE_IN; ++u)
                for (int c = 0; c < IN; c += LANES) {
                    Lanes sum = {};
                    for (int y = v + PADDING - 1; y <= v + PADDING; ++y)
                        for (int x = u + PADDING - 1; x <= u + PADDING; ++x)
                            if (y >= 0 && y < BOX && x >= 0 && x < BOX)
                                sum += load(back + (y * BOX + x) * IN + c);
                    store(input + (v * SIDE_IN + u) * IN + c, sum * 0.25f);
                }
    }
};

template <int L>
struct Network {  // convolution L and all that follows
    Layer<L> layer;
    Network<L + 1> next;
    alignas(64) float slope[Layer<L>::COUNT * Layer<L>::OUT];  // the gradient of layer.out
    static constexpr int SIZE = Layer<L>::SIZE + Network<L + 1>::SIZE;

    void prepare(const float* weight) {
        if constexpr (L > 0) layer.transpose(weight);
        next.prepare(weight + Layer<L>::SIZE);
    }

    template <typename Input>
    void forward(const Input* input, const float* weight, float* logits) {
        layer.fill_box(input);
        layer.forward(weight);
        next.forward(layer.out, weight + Layer<L>::SIZE, logits);
    }

    // Adds the gradient of the weights to ``gradient``; that of the input goes to ``back``.
    template <typename Input>
    float pass(const Input* input, int label, const float* weight, float* gradient, float* back) {
        layer.fill_box(input);
        layer.forward(weight);
        const float loss =
            next.pass(layer.out, label, weight + Layer<L>::SIZE, gradient + Layer<L>::SIZE, slope);
        layer.backward_pointwise(slope);
        layer.backward_weight(slope, gradient);
        if constexpr (L > 0) layer.backward_input(slope, back);
        return loss;
    }
};

template <>
struct Network<DEPTH> {  // the linear layer and the cross entropy
    static constexpr int GRID = (SIDE >> DEPTH) * (SIDE >> DEPTH), IN = WIDTHS[DEPTH];
    static constexpr int INNER = CLASSES * IN, SIZE = GRID * INNER;

    void prepare(const float*) {}

    void forward(const float* input, const float* weight, float* logits) {
        Lanes sums[CLASSES] = {};
        for (int p = 0; p < GRID; ++p)
            for (int c = 0; c < IN; c += LANES) {
                const Lanes x = load(input + p * IN + c);
                for (int k = 0; k < CLASSES; ++k)
                    sums[k] += x * load(weight + p * INNER + k * IN + c);
            }
        for (int k = 0; k < CLASSES; ++k) {
            logits[k] = 0;
            for (int i = 0; i < LANES; ++i) logits[k] += sums[k][i];
        }
    }

    float pass(const float* input, int label, const float* weight, float* gradient, float* back) {
        float logits[CLASSES], largest = -INFINITY, total = 0;
        forward(input, weight, logits);
        for (int k = 0; k < CLASSES; ++k)
            if (!(logits[k] <= largest)) largest = logits[k];
        float slopes[CLASSES];
        for (int k = 0; k < CLASSES; ++k) total += slopes[k] = std::exp(logits[k] - largest);
        for (int k = 0; k < CLASSES; ++k) slopes[k] = slopes[k] / total - (k == label);
        for (int p = 0; p < GRID; ++p)
            for (int c = 0; c < IN; c += LANES) {
                const Lanes x = load(input + p * IN + c);
                Lanes sum = {};
                for (int k = 0; k < CLASSES; ++k) {
                    const int at = p * INNER + k * IN + c;
                    sum += load(weight + at) * slopes[k];
                    store(gradient + at, load(gradient + at) + x * slopes[k]);
                }
                store(back + p * IN + c, sum);
            }
        return std::log(total) + largest - logits[label];
    }
};

// One layer of a run: ``lines`` lines of ``width`` weights each, which the group permutes. Orbit o
// consists of order[ends[o - 1]] to order[ends[o] - 1]; it is inside if the support does not cut it,
// so that its mean is a coordinate in E.
struct Space {
    int lines, width, orbits;
    const int* order;
    const int* ends;
    const int* inside;
};

// a <- a - rate scale grad_a in E, b <- b - rate (scale grad_b + gamma b) outside, weight = a + b.
//   a: (orbits, width), orthonormal coordinates; b: (lines, width), the part outside E itself.
// A gamma of infinity is a mask: b is 0. Returns |b|^2 after the update.
static float update(const Space& s, const float* gradient, float* a, float* b, float* weight,
                    float scale, float rate, float gamma) {
    const bool free = gamma < INFINITY;
    Lanes squares = {};
    for (int j = 0; j < s.width; j += LANES)
        for (int o = 0, first = 0; o < s.orbits; first = s.ends[o++]) {
            Lanes mean = {}, inside = {};
            if (s.inside[o]) {
                for (int k = first; k < s.ends[o]; ++k)
                    mean += load(gradient + s.order[k] * s.width + j);
                const float size = s.ends[o] - first, root = std::sqrt(size);
                inside = load(a + o * s.width + j) - mean * (rate * scale / root);
                store(a + o * s.width + j, inside);
                inside /= root;
                mean /= size;
            }
            for (int k = first; k < s.ends[o]; ++k) {
                const int at = s.order[k] * s.width + j;
                Lanes outside = {};
                if (free) {
                    outside = load(b + at);
                    outside -= ((load(gradient + at) - mean) * scale + outside * gamma) * rate;
                }
                store(b + at, outside);
                store(weight + at, inside + outside);
                squares += outside * outside;
            }
        }
    float square = 0;
    for (int k = 0; k < LANES; ++k) square += squares[k];
    return square;
}

using Whole = Network<0>;

struct Memory {
    Whole network;
    alignas(64) float gradient[Whole::SIZE];
};

// Trains one run for ``steps`` steps of ``batch`` images, its weights being the coordinates a and b
// of all layers, one after the other, and ``weight`` in step with them.
//   images: rows of PIXELS bytes; rows, labels: (steps, batch), which image and its class;
//   scale: of an image's cross entropy; rates, gammas: (steps,), the learning rate and the penalty;
//   recorded: (steps, 1 + layers), the mean cross entropy and the squared distances to E per layer,
//   before the update; squares: (layers,), these distances, kept between calls.
extern "C" void train(const uint8_t* images, const int64_t* rows, const int64_t* labels, int steps,
                      int batch, const Space* spaces, float* a, float* b, float* weight,
                      float* squares, float scale, const float* rates, const float* gammas,
                      float* recorded) {
    const auto memory = std::make_unique<Memory>();
    Whole& network = memory->network;
    for (int step = 0; step < steps; ++step) {
        float* gradient = memory->gradient;
        std::memset(gradient, 0, sizeof memory->gradient);
        network.prepare(weight);
        float loss = 0;
        for (int i = step * batch; i < (step + 1) * batch; ++i)
            loss += network.pass(images + rows[i] * PIXELS, (int)labels[i], weight, gradient, nullptr);
        *recorded++ = loss / batch;
        float *coordinates = a, *outside = b, *whole = weight;
        for (int l = 0; l <= DEPTH; ++l) {
            const Space& s = spaces[l];
            *recorded++ = squares[l];
            squares[l] = update(s, gradient, coordinates, outside, whole, scale, rates[step],
                                gammas[step]);
            coordinates += s.orbits * s.width;
            outside += s.lines * s.width;
            whole += s.lines * s.width;
            gradient += s.lines * s.width;
        }
    }
}

// The logits of ``count`` images by one run's network, (count, CLASSES).
extern "C" void predict(const uint8_t* images, int count, const float* weight, float* logits) {
    const auto network = std::make_unique<Whole>();
    for (int i = 0; i < count; ++i)
        network->forward(images + (size_t)i * PIXELS, weight, logits + (size_t)i * CLASSES);
}
