// The training step of step.py on a CPU, one run at a time, a few images forward and then backward,
// so that all it touches stays in the core's own caches. compiled.py compiles it for one network,
// whose sizes are macros: CHANNELS (16,16), SIDE of the images, KERNEL (side of the filters), CLASSES.
//
// Every inner loop runs over lanes: channels side by side. A layer's weights are [entry][inner]:
// entry over its grid (taps of a filter, pixels of the linear layer), inner over pairs of channels.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef LANES  // floats of a register
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#endif
#ifndef REGISTERS
#if defined(__AVX512F__) || defined(__aarch64__)
#define REGISTERS 32
#else
#define REGISTERS 16
#endif
#endif
#define INLINE __attribute__((always_inline)) inline
#define UNROLL _Pragma("GCC unroll 32")

namespace {  // a process may load several networks: their constants must not become one

constexpr int DEPTH = sizeof((int[]){CHANNELS}) / sizeof(int);
constexpr int WIDTHS[] = {1, CHANNELS};
constexpr int PADDING = KERNEL / 2, TAPS = KERNEL * KERNEL, PIXELS = SIDE * SIDE;
constexpr float EPSILON = 1e-5f;

// The largest divisor of n that is at most ``most``.
constexpr int divisor(int n, int most) {
    int best = 1;
    for (int d = 1; d <= most; ++d)
        if (n % d == 0) best = d;
    return best;
}

// The lanes that are used: as many as a register has and every layer's channels are a multiple of.
constexpr int common_lanes() {
    int n = LANES;
    for (int l = 1; l <= DEPTH; ++l)
        while (WIDTHS[l] % n) n /= 2;
    return n;
}
constexpr int N = common_lanes();
static_assert(N >= 4, "channels must be multiples of 4");

template <int COUNT>
struct Vector {
    typedef float type __attribute__((vector_size(4 * COUNT)));
};
using Lanes = Vector<N>::type;
using Four = Vector<4>::type;

template <typename V>
struct Loose {  // a line may start anywhere
    typedef V type __attribute__((aligned(4)));
};
template <typename V = Lanes>
INLINE V load(const float* p) { return *reinterpret_cast<const typename Loose<V>::type*>(p); }
template <typename V>
INLINE void store(float* p, V v) { *reinterpret_cast<typename Loose<V>::type*>(p) = v; }
INLINE Lanes all(float x) { return Lanes{} + x; }

template <typename V>
INLINE float sum_of(V v) {
    float sum = 0;
    for (unsigned k = 0; k < sizeof v / sizeof sum; ++k) sum += v[k];
    return sum;
}

// x within [-8, 8]; NaN stays NaN.
template <typename V>
INLINE V clamp(V x) {
    const V low = V{} - 8.0f, high = V{} + 8.0f;
#ifdef __AVX512F__
    if constexpr (sizeof x == 64)
        return (V)_mm512_max_ps((__m512)low, _mm512_min_ps((__m512)high, (__m512)x));
#endif
#ifdef __AVX__
    if constexpr (sizeof x == 32)
        return (V)_mm256_max_ps((__m256)low, _mm256_min_ps((__m256)high, (__m256)x));
#endif
#if defined(__SSE2__)
    if constexpr (sizeof x == 16)
        return (V)_mm_max_ps((__m128)low, _mm_min_ps((__m128)high, (__m128)x));
#elif defined(__aarch64__)
    if constexpr (sizeof x == 16)
        return (V)vmaxq_f32((float32x4_t)low, vminq_f32((float32x4_t)high, (float32x4_t)x));
#endif
    x = x > high ? high : x;
    return x < low ? low : x;
}

template <typename V>
INLINE V quotient(V p, V q) {
#ifdef __AVX512F__  // on some processors a division takes four times as long
    if constexpr (sizeof p == 64) {
        const V r = (V)_mm512_rcp14_ps((__m512)q), t = p * r;
        return t + (p - q * t) * r;
    }
#endif
    return p / q;
}

// x P(x^2) / Q(x^2), fitted to tanh on [-8, 8] with a relative error of 7e-9; NaN stays NaN.
INLINE Lanes tanh(Lanes x) {
    x = clamp(x);
    const Lanes u = x * x;
    Lanes p = u * 1.5230762002478554e-08f + 2.189490614311357e-05f;
    p = (p * u + 0.003571612745230595f) * u + 0.13444510352772945f;
    p = (p * u + 0.9999999935801351f) * x;
    Lanes q = u * 8.522586147053161e-07f + 0.000341131616278165f;
    q = (q * u + 0.026164498864034876f) * u + 0.46777837676634276f;
    return quotient(p, q * u + 1.0f);
}

// The sum of term(0) to term(count - 1), in four chains, so that additions need not wait in line.
template <typename Term>
INLINE Lanes total(int count, Term term) {
    Lanes sums[4] = {};
    const int whole = count / 4 * 4;
    for (int n = 0; n < whole; n += 4) {
        UNROLL
        for (int s = 0; s < 4; ++s) sums[s] += term(n + s);
    }
    for (int n = whole; n < count; ++n) sums[0] += term(n);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Registers are the scarce good: products of matrices are cut into tiles whose sums they hold, of
// ACROSS vectors of outputs each, so that a broadcast input serves them all.
constexpr int SUMS = REGISTERS >= 32 ? 24 : 12;
constexpr int across(int channels) { return divisor(channels / N, 2); }

// Calls each(size, first) for tiles that cover UNITS, of nearly the same size, at most MOST.
template <int UNITS, int MOST, typename Each>
INLINE void tiles(Each each) {
    constexpr int COUNT = (UNITS + MOST - 1) / MOST, SIZE = (UNITS + COUNT - 1) / COUNT;
    constexpr int LARGE = UNITS - COUNT * (SIZE - 1);
    int first = 0;
    for (int t = 0; t < LARGE; ++t, first += SIZE)
        each(std::integral_constant<int, SIZE>{}, first);
    if constexpr (LARGE < COUNT)
        for (int t = LARGE; t < COUNT; ++t, first += SIZE - 1)
            each(std::integral_constant<int, SIZE - 1>{}, first);
}

// sums[r * COLUMNS + s] += the sum over k < COUNT of from[r][k * ALONG + s * APART] * w[k * DOWN].
template <int COUNT, int ALONG, int APART, int DOWN, int ROWS, int COLUMNS, int V>
INLINE void products(Lanes (&sums)[ROWS * COLUMNS][V], const float* const (&from)[ROWS],
                     const float* w) {
    _Pragma("GCC unroll 4")
    for (int k = 0; k < COUNT; ++k) {
        Lanes filters[V];
        UNROLL
        for (int v = 0; v < V; ++v) filters[v] = load(w + k * DOWN + v * N);
        UNROLL
        for (int n = 0; n < ROWS * COLUMNS; ++n) {
            const Lanes value = all(from[n / COLUMNS][k * ALONG + n % COLUMNS * APART]);
            UNROLL
            for (int v = 0; v < V; ++v) sums[n][v] += filters[v] * value;
        }
    }
}

// Where the pixels of a square lie in a wider one.
template <int SIDE_OUT, int WIDE, int EDGE, int STEP>
struct Places {
    int of[SIDE_OUT * SIDE_OUT] = {};
    constexpr Places() {
        for (int p = 0; p < SIDE_OUT * SIDE_OUT; ++p)
            of[p] = ((p / SIDE_OUT + EDGE) * WIDE + p % SIDE_OUT + EDGE) * STEP;
    }
};

template <int L>
struct Layer {  // what convolution L keeps of an image: box filter, filter, tanh, normalization
    static constexpr int IN = WIDTHS[L], OUT = WIDTHS[L + 1];
    static constexpr int SIDE_IN = SIDE >> L, SIDE_OUT = SIDE >> (L + 1);
    static constexpr int BOX = SIDE_IN + 2 * PADDING - 1, COUNT = SIDE_OUT * SIDE_OUT;
    static constexpr int INNER = IN * OUT, SIZE = TAPS * INNER;
    static constexpr int EDGE = L + 1 < DEPTH ? PADDING : 0;  // of tanhs: the next one's padding
    static constexpr int WIDE = SIDE_OUT + 2 * EDGE;
    static constexpr int V = across(OUT), TILE = SUMS / V;
    // Pixels of a tile lie apart by a constant where registers are many, else by pointers.
    static constexpr int RUN = IN > 1 && REGISTERS >= 32 ? divisor(SIDE_OUT, TILE) : 1;
    static constexpr int RUNS = TILE / RUN < 8 ? TILE / RUN : 8;

    alignas(64) float box[BOX * BOX * IN];
    alignas(64) float tanhs[WIDE * WIDE * OUT];
    alignas(64) float mean[OUT], rsqrt[OUT];
    int count, filled[COUNT + SIDE_OUT + RUNS];  // where IN is 1: pixels whose patch is not all 0

    static constexpr Places<SIDE_OUT, WIDE, EDGE, OUT> IN_TANHS{};
    static constexpr Places<SIDE_OUT, BOX, 0, 2 * IN> IN_BOX{};
    static int place(int p) { return EDGE ? IN_TANHS.of[p] : p * OUT; }

    // The 2x2 means of the padded, normalized input, whose border holds the mean: 0, normalized.
    void fill(const Layer<(L > 0 ? L - 1 : 0)>& from) {
        constexpr int V = across(IN);
        for (int c = 0; c < IN; c += V * N) {
            Lanes factor[V], offset[V];  // of the sum of two
            for (int v = 0; v < V; ++v) {
                factor[v] = load(from.rsqrt + c + v * N) * 0.25f;
                offset[v] = load(from.mean + c + v * N) * 2.0f;
            }
            for (int y = 0; y < BOX; ++y) {
                const float *up = from.tanhs + y * from.WIDE * IN + c, *down = up + from.WIDE * IN;
                Lanes last[V];
                UNROLL
                for (int v = 0; v < V; ++v) last[v] = load(up + v * N) + load(down + v * N);
                for (int x = 0; x < BOX; ++x) {
                    up += IN;
                    down += IN;
                    UNROLL
                    for (int v = 0; v < V; ++v) {
                        const Lanes next = load(up + v * N) + load(down + v * N);
                        store(box + (y * BOX + x) * IN + c + v * N,
                              ((last[v] - offset[v]) + (next - offset[v])) * factor[v]);
                        last[v] = next;
                    }
                }
            }
        }
    }

    void fill(const uint8_t* pixels) {
        constexpr int WIDTH = (SIDE_IN + 2 * PADDING + 31) / 32 * 32, WORDS = WIDTH / 8;
        alignas(64) uint8_t rows[SIDE_IN + 2 * PADDING][WIDTH];
        alignas(64) int16_t pairs[BOX][WIDTH];
        for (int v = 0; v < SIDE_IN + 2 * PADDING; ++v) std::memset(rows[v], 0, WIDTH);
        for (int v = 0; v < SIDE_IN; ++v)
            std::memcpy(rows[v + PADDING] + PADDING, pixels + v * SIDE_IN, SIDE_IN);
        for (int y = 0; y < BOX; ++y)
            for (int x = 0; x < WIDTH; ++x) pairs[y][x] = rows[y][x] + rows[y + 1][x];
        for (int y = 0; y < BOX; ++y)
            for (int x = 0; x < BOX; ++x)
                box[y * BOX + x] = (pairs[y][x] + pairs[y][x + 1]) * (0.25f / 255.0f);
        for (int n = 0; n < count; ++n)  // of the image before
            for (int o = 0; o < OUT; o += N) store(tanhs + place(filled[n]) + o, Lanes{});
        count = 0;
        for (int y = 0; y < SIDE_OUT; ++y) {  // from the first to the last patch that is not all 0
            uint64_t words[WORDS] = {}, own[WORDS];
            for (int i = 0; i <= KERNEL; ++i) {
                std::memcpy(own, rows[2 * y + i], sizeof own);
                for (int k = 0; k < WORDS; ++k) words[k] |= own[k];
            }
            int low = WIDTH, high = -1;
            for (int k = 0; k < WORDS; ++k)
                high = words[k] ? 8 * k + 7 - __builtin_clzll(words[k]) / 8 : high;
            for (int k = WORDS - 1; k >= 0; --k)
                low = words[k] ? 8 * k + __builtin_ctzll(words[k]) / 8 : low;
            const int first = low < KERNEL ? 0 : (low - KERNEL + 1) / 2;
            const int last = high < 0 ? first - 1 : high / 2 < SIDE_OUT ? high / 2 : SIDE_OUT - 1;
            for (int x = 0; x < SIDE_OUT; ++x) filled[count + x] = y * SIDE_OUT + first + x;
            count += last - first + 1;
        }
        for (int n = 0; count && n < RUNS; ++n) filled[count + n] = filled[count - 1];
    }

    // The filters and tanh at ROWS times RUN pixels, the runs of them starting at pixel(0), ...
    template <int ROWS, typename Pixel>
    INLINE void convolve(const float* weight, int o, Pixel pixel) {
        const float* from[ROWS];
        Lanes sums[ROWS * RUN][V] = {};
        UNROLL
        for (int r = 0; r < ROWS; ++r) from[r] = box + IN_BOX.of[pixel(r)];
        for (int i = 0; i < KERNEL; ++i) {
            products<KERNEL * IN, 1, 2 * IN, OUT, ROWS, RUN>(sums, from,
                                                             weight + i * KERNEL * INNER + o);
            UNROLL
            for (int r = 0; r < ROWS; ++r) from[r] += BOX * IN;
        }
        UNROLL
        for (int n = 0; n < ROWS * RUN; ++n) {
            UNROLL
            for (int v = 0; v < V; ++v)
                store(tanhs + place(pixel(n / RUN) + n % RUN) + o + v * N, tanh(sums[n][v]));
        }
    }

    void forward(const float* weight) {
        for (int o = 0; o < OUT; o += V * N) {
            if constexpr (IN == 1)  // beyond the last one it is repeated
                for (int n = 0; n < count; n += RUNS)
                    convolve<RUNS>(weight, o, [&](int r) { return filled[n + r]; });
            else
                tiles<COUNT / RUN, RUNS>([&](auto size, int first) {
                    constexpr int UNITS = size;
                    convolve<UNITS>(weight, o, [&](int r) { return (first + r) * RUN; });
                });
        }
        for (int o = 0; o < OUT; o += N) normalize(o);
    }

    void normalize(int o) {
        const auto at = [&](int p) { return load(tanhs + place(p) + o); };
        Lanes middle, square;
        const auto spread = [&](int p) { return (at(p) - middle) * (at(p) - middle); };
        if constexpr (IN == 1) {
            middle = total(count, [&](int n) { return at(filled[n]); }) / (float)COUNT;
            square = middle * middle * (float)(COUNT - count) +
                     total(count, [&](int n) { return spread(filled[n]); });
        } else {
            middle = total(COUNT, at) / (float)COUNT;
            square = total(COUNT, spread);
        }
        store(mean + o, middle);
        store(rsqrt + o, square / (float)COUNT + EPSILON);
        for (int k = o; k < o + N; ++k) rsqrt[k] = 1.0f / std::sqrt(rsqrt[k]);
        for (int b = 0; b < EDGE; ++b)
            for (int k = 0, end = WIDE - 1 - b; k < WIDE; ++k) {
                store(tanhs + (b * WIDE + k) * OUT + o, middle);
                store(tanhs + (end * WIDE + k) * OUT + o, middle);
                store(tanhs + (k * WIDE + b) * OUT + o, middle);
                store(tanhs + (k * WIDE + end) * OUT + o, middle);
            }
    }

    void normalized(float* to) const {
        for (int o = 0; o < OUT; o += N)
            for (int p = 0; p < COUNT; ++p)
                store(to + p * OUT + o,
                      (load(tanhs + place(p) + o) - load(mean + o)) * load(rsqrt + o));
    }

    // From the gradient of the output, and its sum over the pixels behind it, to that of the weights,
    // which is added to ``sum``, and, but for the image, to that of the convolution, in place.
    void backward(float* slope, float* sum) const {
        for (int o = 0; o < OUT; o += N) {
            const Lanes scale = load(rsqrt + o), middle = load(mean + o);
            const auto slope_at = [&](int p) { return load(slope + p * OUT + o); };
            const auto value = [&](int p) { return load(tanhs + place(p) + o); };
            const auto product = [&](int p) { return slope_at(p) * (value(p) - middle); };
            const Lanes slopes = load(slope + COUNT * OUT + o);
            Lanes products;
            if constexpr (IN == 1)  // the other pixels' tanh is 0
                products = total(count, [&](int n) { return product(filled[n]); }) -
                           (slopes - total(count, [&](int n) { return slope_at(filled[n]); })) * middle;
            else
                products = total(COUNT, product);
            const Lanes along = products * scale * scale / (float)COUNT;
            const Lanes same = slopes / (float)COUNT;
            const auto gradient = [&](int p) {
                const Lanes t = value(p);  // not opened up: t may be close to the mean
                return (slope_at(p) - same - (t - middle) * along) * (scale - t * t * scale);
            };
            if constexpr (IN == 1) {
                constexpr int PART = TAPS <= SUMS ? TAPS : KERNEL;
                for (int r = 0; r < TAPS; r += PART) {
                    Lanes sums[PART];
                    UNROLL
                    for (int k = 0; k < PART; ++k) sums[k] = load(sum + (r + k) * OUT + o);
                    for (int n = 0; n < count; ++n) {
                        const float* from = box + IN_BOX.of[filled[n]];
                        const Lanes g = gradient(filled[n]);
                        UNROLL
                        for (int k = 0; k < PART; ++k)
                            sums[k] += g * from[(r + k) / KERNEL * BOX + (r + k) % KERNEL];
                    }
                    UNROLL
                    for (int k = 0; k < PART; ++k) store(sum + (r + k) * OUT + o, sums[k]);
                }
            } else
                for (int p = 0; p < COUNT; ++p) store(slope + p * OUT + o, gradient(p));
        }
        if constexpr (IN > 1) backward_weight(slope, sum);
    }

    void backward_weight(const float* slope, float* sum) const {
        for (int i = 0; i < KERNEL; ++i)
            tiles<KERNEL * IN, TILE>([&](auto size, int first) {
                constexpr int UNITS = size;
                for (int o = 0; o < OUT; o += V * N) {
                    float* to = sum + (i * KERNEL * IN + first) * OUT + o;
                    Lanes sums[UNITS][V];
                    UNROLL
                    for (int n = 0; n < UNITS * V; ++n)
                        sums[n / V][n % V] = load(to + n / V * OUT + n % V * N);
                    for (int y = 0; y < SIDE_OUT; ++y)
                        products<SIDE_OUT, 2 * IN, 1, OUT, 1, UNITS>(
                            sums, {box + (2 * y + i) * BOX * IN + first},
                            slope + y * SIDE_OUT * OUT + o);
                    UNROLL
                    for (int n = 0; n < UNITS * V; ++n)
                        store(to + n / V * OUT + n % V * N, sums[n / V][n % V]);
                }
            });
    }

    // The filters as backward_input reads them, [channels of the input][row][output][column][lane],
    // and a quarter of them, for the box filter.
    static void transpose(const float* weight, float* to) {
        for (int c = 0; c < IN; c += N)
            for (int i = 0; i < KERNEL; ++i)
                for (int o = 0; o < OUT; ++o)
                    for (int j = 0; j < KERNEL; ++j)
                        for (int k = 0; k < N; ++k)
                            *to++ = weight[(i * KERNEL + j) * INNER + (c + k) * OUT + o] * 0.25f;
    }

    // Rows of KERNEL products each, whose sums the registers hold beside the filters and a slope.
    static constexpr int PIECE = REGISTERS - 1 < 2 * KERNEL ? 1 : (REGISTERS - 1 - KERNEL) / KERNEL;

    // The gradient of the boxes of row v, for N channels: an even row meets the filters' even rows,
    // an odd one the odd.
    INLINE static void row_of_boxes(const float* slope, const float* transposed, int v, float* to) {
        constexpr int MORE = KERNEL > 2 ? KERNEL - 2 : 0;  // boxes shared with the next piece
        Lanes shared[MORE + 1] = {};
        tiles<SIDE_OUT, PIECE>([&](auto size, int x) {
            constexpr int UNITS = size;
            Lanes sums[KERNEL][UNITS] = {};
            for (int i = v & 1; i < KERNEL && i <= v; i += 2) {
                const int y = (v - i) / 2;
                if (y >= SIDE_OUT) continue;
                const float* from = slope + (y * SIDE_OUT + x) * OUT;
                const float* w = transposed + i * OUT * KERNEL * N;
                _Pragma("GCC unroll 4")
                for (int o = 0; o < OUT; ++o) {
                    Lanes filters[KERNEL];
                    UNROLL
                    for (int j = 0; j < KERNEL; ++j) filters[j] = load(w + (o * KERNEL + j) * N);
                    UNROLL
                    for (int s = 0; s < UNITS; ++s) {
                        const Lanes value = all(from[s * OUT + o]);
                        UNROLL
                        for (int j = 0; j < KERNEL; ++j) sums[j][s] += filters[j] * value;
                    }
                }
            }
            Lanes boxes[2 * UNITS + MORE];
            UNROLL
            for (int k = 0; k < 2 * UNITS + MORE; ++k) {
                boxes[k] = k < MORE ? shared[k] : Lanes{};
                UNROLL
                for (int j = k & 1; j < KERNEL; j += 2)
                    if (j <= k && (k - j) / 2 < UNITS) boxes[k] += sums[j][(k - j) / 2];
            }
            UNROLL
            for (int k = 0; k < 2 * UNITS; ++k) store(to + (2 * x + k) * N, boxes[k]);
            UNROLL
            for (int k = 0; k < MORE; ++k) shared[k] = boxes[2 * UNITS + k];
        });
        UNROLL
        for (int k = 0; k < MORE; ++k) store(to + (2 * SIDE_OUT + k) * N, shared[k]);
    }

    // The gradient of the input, (SIDE_IN, SIDE_IN, IN), and its sum over the pixels behind it. A
    // pixel v lies in the boxes v + PADDING - 1 and v + PADDING, of which there may be fewer.
    static void backward_input(const float* slope, const float* transposed, float* input) {
        constexpr int BORDER = PADDING ? 0 : 1;
        alignas(64) float boxes[(BOX + 2 * BORDER + 1) * N] = {}, above[SIDE_IN * N];
        for (int c = 0; c < IN; c += N) {
            Lanes sum = {};
            std::memset(above, 0, sizeof above);
            for (int v = PADDING ? PADDING - 1 : 0; v < SIDE_IN + PADDING; ++v) {
                if (v < BOX)
                    row_of_boxes(slope, transposed + c * TAPS * OUT, v, boxes + BORDER * N);
                else
                    std::memset(boxes, 0, sizeof boxes);
                const float* from = boxes + (PADDING - 1 + BORDER) * N;
                float* to = input + (v - PADDING) * SIDE_IN * IN + c;
                Lanes last = load(from);
                for (int u = 0; u < SIDE_IN; ++u) {
                    const Lanes next = load(from + (u + 1) * N), pair = last + next;
                    if (v >= PADDING) {
                        const Lanes value = load(above + u * N) + pair;
                        store(to + u * IN, value);
                        sum += value;
                    }
                    store(above + u * N, pair);
                    last = next;
                }
            }
            store(input + SIDE_IN * SIDE_IN * IN + c, sum);
        }
    }
};

#ifndef GROUP
#define GROUP 4
#endif

template <int L>
struct Network {  // convolution L and all that follows
    using Own = Layer<L>;
    Own layers[GROUP];
    Network<L + 1> next;
    // The gradient of the layer's output, and its sum over the pixels.
    alignas(64) float slope[(Own::COUNT + 1) * Own::OUT];
    alignas(64) float transposed[L > 0 ? Own::SIZE : 1];
    static constexpr int SIZE = Own::SIZE + Network<L + 1>::SIZE;

    void prepare(const float* weight) {
        if constexpr (L > 0) Own::transpose(weight, transposed);
        next.prepare(weight + Own::SIZE);
    }

    template <typename Input>
    void forward(int n, const Input& input, const float* weight) {
        layers[n].fill(input);
        layers[n].forward(weight);
        next.forward(n, layers[n], weight + Own::SIZE);
    }

    void logits(const float* weight, float* to) { next.logits(weight + Own::SIZE, to); }

    float classify(int count, const int64_t* labels, const float* weight, float* gradient) {
        return next.classify(count, labels, weight + Own::SIZE, gradient + Own::SIZE);
    }

    // Adds the gradient of the weights to ``gradient``; that of the input goes to ``input``.
    void backward(int n, float* gradient, float* input) {
        next.backward(n, gradient + Own::SIZE, slope);
        layers[n].backward(slope, gradient);
        if constexpr (L > 0) Own::backward_input(slope, transposed, input);
    }
};

template <>
struct Network<DEPTH> {  // the linear layer and the cross entropy
    static constexpr int GRID = (SIDE >> DEPTH) * (SIDE >> DEPTH), IN = WIDTHS[DEPTH];
    static constexpr int INNER = CLASSES * IN, SIZE = GRID * INNER;
    static constexpr int PART = SUMS / 2 - 1;  // classes at once
    alignas(64) float features[GROUP][GRID * IN];
    alignas(64) float slope[GROUP][GRID * IN];

    void prepare(const float*) {}

    template <typename Input>
    void forward(int n, const Input& input, const float*) {
        input.normalized(features[n]);
    }

    // Of the image n and those behind it.
    template <int COUNT = 1>
    void logits(const float* weight, float* to, int n = 0) {
        tiles<CLASSES, PART>([&](auto size, int first) {
            constexpr int UNITS = size;
            Lanes sums[COUNT][UNITS] = {};
            for (int p = 0; p < GRID; ++p)
                for (int c = 0; c < IN; c += N) {
                    const float* own = weight + p * INNER + first * IN + c;
                    UNROLL
                    for (int k = 0; k < UNITS; ++k) {
                        const Lanes w = load(own + k * IN);
                        UNROLL
                        for (int m = 0; m < COUNT; ++m)
                            sums[m][k] += load(features[n + m] + p * IN + c) * w;
                    }
                }
            UNROLL
            for (int m = 0; m < COUNT; ++m) {
                UNROLL
                for (int k = 0; k < UNITS; ++k) to[m * CLASSES + first + k] = sum_of(sums[m][k]);
            }
        });
    }

    // The sum of the cross entropies of ``count`` images; their gradient is added to ``gradient``.
    float classify(int count, const int64_t* labels, const float* weight, float* gradient) {
        float slopes[GROUP][CLASSES], loss = 0;
        for (int n = 0; n + 1 < count; n += 2) logits<2>(weight, slopes[n], n);
        if (count % 2) logits(weight, slopes[count - 1], count - 1);
        for (int n = 0; n < count; ++n) {
            float *own = slopes[n], largest = -INFINITY, total = 0;
            const float chosen = own[labels[n]];
            for (int k = 0; k < CLASSES; ++k)
                if (!(own[k] <= largest)) largest = own[k];
            for (int k = 0; k < CLASSES; ++k) total += own[k] = std::exp(own[k] - largest);
            for (int k = 0; k < CLASSES; ++k) own[k] = own[k] / total - (k == labels[n]);
            loss += std::log(total) + largest - chosen;
        }
        for (int at = 0; at < GRID * IN; at += N)
            tiles<CLASSES, PART>([&](auto size, int first) {
                constexpr int UNITS = size;
                const int offset = at / IN * INNER + at % IN + first * IN;
                Lanes sums[UNITS], weights[UNITS];
                UNROLL
                for (int k = 0; k < UNITS; ++k) {
                    sums[k] = load(gradient + offset + k * IN);
                    weights[k] = load(weight + offset + k * IN);
                }
                for (int n = 0; n < count; ++n) {
                    const Lanes x = load(features[n] + at);
                    Lanes back = first ? load(slope[n] + at) : Lanes{};
                    UNROLL
                    for (int k = 0; k < UNITS; ++k) {
                        const Lanes own = all(slopes[n][first + k]);
                        sums[k] += x * own;
                        back += weights[k] * own;
                    }
                    store(slope[n] + at, back);
                }
                UNROLL
                for (int k = 0; k < UNITS; ++k) store(gradient + offset + k * IN, sums[k]);
            });
        return loss;
    }

    void backward(int n, float*, float* input) {
        for (int c = 0; c < IN; c += N) {
            Lanes sum = {};
            for (int at = c; at < GRID * IN; at += IN) {
                const Lanes own = load(slope[n] + at);
                store(input + at, own);
                sum += own;
            }
            store(input + GRID * IN + c, sum);
        }
    }
};

// A layer of a run as an orbit of the group sees it: ``lines`` lines of ``width`` weights that lie
// side by side. Orbit o consists of the lines order[ends[o - 1]] to order[ends[o] - 1]; it is inside
// if the support does not cut it, so that its mean is a coordinate in E.
struct Space {
    int lines, width, orbits;
    const int* order;
    const int* ends;
    const int* inside;
};

struct Descent {
    float scale, rate, gamma;
};

// What ``update`` does to an orbit's lines, COUNT if that is known, from column j on, as many columns
// as V holds. Returns the sum of b^2.
template <bool FREE, int COUNT, typename V>
INLINE V descend(const Space& s, int o, int first, int j, const float* gradient, float* a, float* b,
                 float* weight, const Descent& by) {
    V mean = {}, inside = {}, square = {};
    const int count = COUNT ? COUNT : s.ends[o] - first, *lines = s.order + first;
    if (s.inside[o]) {
        for (int k = 0; k < count; ++k) mean += load<V>(gradient + lines[k] * s.width + j);
        const float share = 1.0f / count, root = std::sqrt(share);
        inside = load<V>(a + o * s.width + j) - mean * (by.rate * by.scale * root);
        store<V>(a + o * s.width + j, inside);
        inside *= root;
        mean *= share;
    }
    for (int k = 0; k < count; ++k) {
        const int at = lines[k] * s.width + j;
        V outside = {};
        if constexpr (FREE) {
            outside = load<V>(b + at);
            outside -= ((load<V>(gradient + at) - mean) * by.scale + outside * by.gamma) * by.rate;
        }
        store<V>(b + at, outside);
        store<V>(weight + at, inside + outside);
        square += outside * outside;
    }
    return square;
}

struct Squares {
    Lanes lanes = {};
    Four fours = {};
    float singles = 0;
};

template <bool FREE, int COUNT>
INLINE void descend(const Space& s, int o, int first, const float* gradient, float* a, float* b,
                    float* weight, const Descent& by, Squares& squares) {
    int j = 0;
    for (; j + N <= s.width; j += N)
        squares.lanes += descend<FREE, COUNT, Lanes>(s, o, first, j, gradient, a, b, weight, by);
    for (; j + 4 <= s.width; j += 4)
        squares.fours += descend<FREE, COUNT, Four>(s, o, first, j, gradient, a, b, weight, by);
    for (; j < s.width; ++j)
        squares.singles += descend<FREE, COUNT, float>(s, o, first, j, gradient, a, b, weight, by);
}

// a <- a - rate scale grad_a in E, b <- b - rate (scale grad_b + gamma b) outside, weight = a + b;
// not FREE: b <- 0.
//   a: (orbits, width), orthonormal coordinates; b: (lines, width), the part outside E itself.
// Returns |b|^2 after the update.
template <bool FREE>
float update(const Space& s, const float* gradient, float* a, float* b, float* weight,
             const Descent& by) {
    Squares squares;
    for (int o = 0, first = 0; o < s.orbits; first = s.ends[o++])
        if (s.ends[o] - first == 4)  // as most are under turns
            descend<FREE, 4>(s, o, first, gradient, a, b, weight, by, squares);
        else
            descend<FREE, 0>(s, o, first, gradient, a, b, weight, by, squares);
    return sum_of(squares.lanes) + sum_of(squares.fours) + squares.singles;
}

using Whole = Network<0>;

struct Memory {
    Whole network;
    alignas(64) float gradient[Whole::SIZE];
};

// The sum of the cross entropies of ``count`` images; their gradient is added to ``gradient``.
//   rows, labels: (count,), which image and its class; more: how many rows follow these.
float differentiated(Whole& network, float* gradient, const uint8_t* images, const int64_t* rows,
                     const int64_t* labels, int count, int64_t more, const float* weight) {
    float loss = 0;
    network.prepare(weight);
    for (int at = 0; at < count; at += GROUP) {
        const int some = count - at < GROUP ? count - at : GROUP;
        for (int n = 0; n < some; ++n) {
            if (at + n + 1 < count + more)  // the next image is on its way from memory
                for (int k = 0; k < PIXELS; k += 64)
                    __builtin_prefetch(images + rows[at + n + 1] * PIXELS + k);
            network.forward(n, images + rows[at + n] * PIXELS, weight);
        }
        loss += network.classify(some, labels + at, weight, gradient);
        for (int n = some - 1; n >= 0; --n) network.backward(n, gradient, nullptr);
    }
    return loss;
}

}  // namespace

// Trains one run for ``steps`` steps of ``batch`` images, its weights being the coordinates a and b
// of all layers, one after the other, and ``weight`` in step with them.
//   images: rows of PIXELS bytes; rows, labels: (steps, batch), which image and its class;
//   scale: of the risk, the sum of the batch's cross entropies; rates, gammas: (steps,), learning
//   rates and penalties, where an infinite one keeps the run in E; recorded: (steps, 1 + layers), the
//   mean cross entropy and the squared distances to E per layer, before the update; squares:
//   (layers,), these distances, kept between calls.
extern "C" void train(const uint8_t* images, const int64_t* rows, const int64_t* labels, int steps,
                      int batch, const Space* spaces, float* a, float* b, float* weight,
                      float* squares, float scale, const float* rates, const float* gammas,
                      float* recorded) {
    const auto memory = std::make_unique<Memory>();
    for (int64_t step = 0; step < steps; ++step) {
        float* gradient = memory->gradient;
        std::memset(gradient, 0, sizeof memory->gradient);
        const float loss =
            differentiated(memory->network, gradient, images, rows + step * batch,
                           labels + step * batch, batch, (steps - step - 1) * batch, weight);
        *recorded++ = loss / batch;
        const Descent by = {scale, rates[step], gammas[step]};
        float *inside = a, *outside = b, *whole = weight;
        for (int l = 0; l <= DEPTH; ++l) {
            const Space& s = spaces[l];
            *recorded++ = squares[l];
            squares[l] = by.gamma == INFINITY
                             ? update<false>(s, gradient, inside, outside, whole, by)
                             : update<true>(s, gradient, inside, outside, whole, by);
            inside += s.orbits * s.width;
            outside += s.lines * s.width;
            whole += s.lines * s.width;
            gradient += s.lines * s.width;
        }
    }
}

// How many channels are taken at once.
extern "C" const int lanes = N;

// The gradient of the sum of the cross entropies of ``count`` images, in the layout of ``weight``.
extern "C" void differentiate(const uint8_t* images, const int64_t* rows, const int64_t* labels,
                              int count, const float* weight, float* gradient) {
    const auto memory = std::make_unique<Memory>();
    std::memset(memory->gradient, 0, sizeof memory->gradient);
    differentiated(memory->network, memory->gradient, images, rows, labels, count, 0, weight);
    std::memcpy(gradient, memory->gradient, sizeof memory->gradient);
}

// The logits of ``count`` images by one run's network, (count, CLASSES).
extern "C" void predict(const uint8_t* images, int count, const float* weight, float* logits) {
    const auto network = std::make_unique<Whole>();
    for (int i = 0; i < count; ++i) {
        network->forward(0, images + (size_t)i * PIXELS, weight);
        network->logits(weight, logits + (size_t)i * CLASSES);
    }
}
