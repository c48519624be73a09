/* The two resizes of preprocess/__init__.py in one pass, equal to OpenCV's to the last bit.
 *
 * What OpenCV computes for 8-bit pixels (modules/imgproc/src/resize.cpp): INTER_LANCZOS4 weights every axis with eight
 * int16 numbers of 11 fractional bits, adds the 64 products in 32-bit integers and rounds once, at the end. Nothing is
 * rounded in between, so any order of summation gives the same pixel. INTER_LINEAR does the same
 * with two numbers and cuts four bits off between the axes. OpenCV's LANCZOS4 has no vector code for its vertical
 * pass and makes the whole picture with its short side at SIDE; here only those of its rows and columns are made that
 * the linear resize reads, at most two for each of its own, whatever the shape.
 *
 * On x86_64 this file is compiled twice, the second time with -mavx2 -DWITH_AVX2; the first, with
 * -DHAVE_AVX2, asks the processor which one to run.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef WITH_AVX2
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#define SIDE 224
#define CHANNELS 3
#define TAPS 8
#define MOST (2 * SIDE)           /* rows or columns of the first result that the second resize reads */
#define ROW (MOST * CHANNELS + 8) /* a pixel may be stored as four numbers of which the next one overwrites the last */
#define READ 28                   /* bytes that `column` may read: more than TAPS * CHANNELS */
#define ONE 2048                  /* 11 fractional bits */

/* One axis: source -> first result (LANCZOS4) -> SIDE (linear). */
typedef struct {
    int count;                  /* positions of the first result that are needed */
    int64_t first[MOST];        /* of each: the source position of its first tap, may lie outside */
    int16_t lanczos[MOST][TAPS];
    int near[SIDE], far[SIDE];  /* of each result: its two positions, as indices of the above */
    int16_t linear[2][SIDE];    /* and their weights */
} Axis;

typedef struct {
    Axis x, y;
    int16_t weights[MOST][4 * TAPS]; /* x.lanczos in the order in which `column` takes it */
    int32_t rows[TAPS][ROW];      /* the last source rows, resized horizontally; row r is in r % TAPS */
    int64_t held[TAPS];           /* which row that is */
    int16_t lines[2][SIDE * CHANNELS]; /* the last lines of the first result, resized linearly, without four bits */
    int line[2];                  /* which ones these are */
    int16_t here[SIDE * CHANNELS], there[SIDE * CHANNELS]; /* x.linear for every channel */
} Work;

/* OpenCV's position of a result: the scale is the inverse of an inverse, the position a float. */
static float position(int64_t index, int64_t from, int64_t to) {
    double scale = 1.0 / ((double)to / (double)from);
    return (float)((index + 0.5) * scale - 0.5);
}

/* OpenCV's interpolateLanczos4, then its rounding to 11 fractional bits. */
static void lanczos(float x, int16_t *weights) {
    static const double half = 0.70710678118654752440084436210485;
    static const double turn[TAPS][2] = {{1, 0},  {-half, -half}, {0, 1},  {half, -half},
                                         {-1, 0}, {half, half},   {0, -1}, {-half, half}};
    const double pi = 3.1415926535897932384626433832795;
    double start = -(x + 3) * pi * 0.25, sine = sin(start), cosine = cos(start);
    float values[TAPS], sum = 0;
    for (int k = 0; k < TAPS; k++) {
        float distance = x + 3 - k;
        if (fabsf(distance) >= 1e-6f) {
            double angle = -distance * pi * 0.25;
            values[k] = (float)((turn[k][0] * sine + turn[k][1] * cosine) / (angle * angle));
        } else {
            values[k] = 1e30f; /* on a source position: after the division below this is 1 and all else 0 */
        }
        sum += values[k];
    }
    sum = 1.f / sum;
    for (int k = 0; k < TAPS; k++) {
        long rounded = lrintf(values[k] * sum * ONE);
        weights[k] = (int16_t)(rounded > INT16_MAX ? INT16_MAX : rounded < INT16_MIN ? INT16_MIN : rounded);
    }
}

static int need(Axis *axis, int64_t index, int64_t from, int64_t to, int64_t *last) {
    if (index != *last) {
        float at = position(index, from, to), below = floorf(at);
        axis->first[axis->count] = (int64_t)below - (TAPS / 2 - 1);
        lanczos(at - below, axis->lanczos[axis->count]);
        axis->count++;
        *last = index;
    }
    return axis->count - 1;
}

static void plan(Axis *axis, int64_t from, int64_t to) {
    int64_t last = -1;
    axis->count = 0;
    for (int result = 0; result < SIDE; result++) {
        float at = position(result, to, SIDE), below = floorf(at), part = at - below;
        int64_t near = (int64_t)below;
        if (near < 0)
            near = 0, part = 0;
        if (near >= to - 1)
            near = to - 1, part = 0;
        axis->linear[0][result] = (int16_t)lrintf((1.f - part) * ONE);
        axis->linear[1][result] = (int16_t)lrintf(part * ONE);
        /* the near one may be the far one of the result before */
        axis->near[result] = near < last ? axis->count - 2 : need(axis, near, from, to, &last);
        axis->far[result] = near + 1 < to ? need(axis, near + 1, from, to, &last) : axis->near[result];
    }
}

/* Eight pixels times their weights -> one pixel of 32-bit sums. */
#if defined(WITH_AVX2)
/* Two halves of four taps; in each, twice a pair of neighbours for every channel: what pmaddwd multiplies and adds. */
static void arrange(const int16_t *lanczos, int16_t *weights) {
    static const int pair_of[4] = {0, 4, 2, 6};
    for (int i = 0; i < 4 * TAPS; i++)
        weights[i] = lanczos[pair_of[i / 8] + i % 2];
}

static inline void column(const uint8_t *taps, const int16_t *weights, int32_t *out) {
    const __m256i first = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
                                           0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
    const __m256i second = _mm256_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
                                            6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    __m256i pixels = _mm256_loadu2_m128i((const __m128i *)(taps + 12), (const __m128i *)taps);
    __m256i sum = _mm256_add_epi32(
        _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, first), _mm256_loadu_si256((const __m256i *)weights)),
        _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, second), _mm256_loadu_si256((const __m256i *)weights + 1)));
    _mm_storeu_si128((__m128i *)out, _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1)));
}
#else
static void arrange(const int16_t *lanczos, int16_t *weights) {
    memcpy(weights, lanczos, TAPS * sizeof *weights);
}

#if defined(__ARM_NEON) && defined(__aarch64__)
static inline void column(const uint8_t *taps, const int16_t *weights, int32_t *out) {
    int16x8_t weight = vld1q_s16(weights);
    uint8x8x3_t pixels = vld3_u8(taps);
    for (int channel = 0; channel < CHANNELS; channel++) {
        int16x8_t value = vreinterpretq_s16_u16(vmovl_u8(pixels.val[channel]));
        int32x4_t sum = vmull_s16(vget_low_s16(value), vget_low_s16(weight));
        out[channel] = vaddvq_s32(vmlal_high_s16(sum, value, weight));
    }
}
#else
static inline void column(const uint8_t *taps, const int16_t *weights, int32_t *out) {
    for (int channel = 0; channel < CHANNELS; channel++) {
        int32_t sum = 0;
        for (int k = 0; k < TAPS; k++)
            sum += taps[CHANNELS * k + channel] * weights[k];
        out[channel] = sum;
    }
}
#endif
#endif

/* The same where taps lie outside, which repeat the border's pixel, or where `column` would read outside. */
static void column_at_border(const uint8_t *row, int64_t width, int64_t first, const int16_t *weights, int32_t *out) {
    uint8_t taps[READ] = {0};
    for (int k = 0; k < TAPS; k++) {
        int64_t x = first + k < 0 ? 0 : first + k >= width ? width - 1 : first + k;
        memcpy(taps + CHANNELS * k, row + CHANNELS * x, CHANNELS);
    }
    column(taps, weights, out);
}

/* One source row -> the needed columns. */
static inline void horizontal(const Work *work, const uint8_t *row, int64_t width, int32_t *out) {
    int c = 0, count = work->x.count;
    const int64_t *first = work->x.first;
    for (; c < count && first[c] < 0; c++)
        column_at_border(row, width, first[c], work->weights[c], out + CHANNELS * c);
    for (; c < count && CHANNELS * first[c] + READ <= CHANNELS * width; c++)
        column(row + CHANNELS * first[c], work->weights[c], out + CHANNELS * c);
    for (; c < count; c++)
        column_at_border(row, width, first[c], work->weights[c], out + CHANNELS * c);
}

static inline void vertical(const Work *work, const int64_t *sources, const int16_t *weights, uint8_t *out) {
    const int32_t *row[TAPS];
    int count = work->x.count * CHANNELS;
    for (int k = 0; k < TAPS; k++)
        row[k] = work->rows[sources[k] % TAPS];
    for (int i = 0; i < count; i++) {
        uint32_t sum = 0;
        for (int k = 0; k < TAPS; k++)
            sum += (uint32_t)row[k][i] * (uint32_t)(int32_t)weights[k];
        int32_t value = (int32_t)(sum + (1u << 21)) >> 22;
        value = value < 0 ? 0 : value;
        out[i] = (uint8_t)(value > 255 ? 255 : value);
    }
}

/* A line of the first result -> SIDE pixels, each between two, as 7 fractional bits. */
static inline void between(const Work *work, const uint8_t *line, int16_t *out) {
    uint8_t near[SIDE * CHANNELS + 1], far[SIDE * CHANNELS + 1];
    for (int x = 0; x < SIDE; x++) { /* four bytes at a time: the next pixel overwrites the last one */
        memcpy(near + CHANNELS * x, line + CHANNELS * work->x.near[x], CHANNELS + 1);
        memcpy(far + CHANNELS * x, line + CHANNELS * work->x.far[x], CHANNELS + 1);
    }
    for (int i = 0; i < SIDE * CHANNELS; i++)
        out[i] = (int16_t)((near[i] * work->here[i] + far[i] * work->there[i]) >> 4);
}

/* Line `index` of the first result between the columns, made or remembered. */
static inline const int16_t *line(Work *work, int index, const uint8_t *source, int64_t height, int64_t width,
                                  int64_t stride) {
    int16_t *out = work->lines[index % 2];
    if (work->line[index % 2] == index)
        return out;
    int64_t sources[TAPS];
    for (int k = 0; k < TAPS; k++) {
        int64_t y = work->y.first[index] + k;
        sources[k] = y = y < 0 ? 0 : y >= height ? height - 1 : y;
        if (work->held[y % TAPS] != y) {
            horizontal(work, source + y * stride, width, work->rows[y % TAPS]);
            work->held[y % TAPS] = y;
        }
    }
    uint8_t first[ROW];
    vertical(work, sources, work->y.lanczos[index], first);
    between(work, first, out);
    work->line[index % 2] = index;
    return out;
}

#ifdef WITH_AVX2
#define metric_learn_resize metric_learn_resize_avx2
#elif defined(HAVE_AVX2)
int metric_learn_resize_avx2(const uint8_t *, int64_t, int64_t, int64_t, int64_t, int64_t, uint8_t *);
#endif

/* uint8 [height, width, 3], rows `stride` bytes apart -> uint8 [SIDE, SIDE, 3]; first_* is the size after the first
 * resize. Returns 0, or -1 where memory is short. */
int metric_learn_resize(const uint8_t *source, int64_t height, int64_t width, int64_t stride, int64_t first_height,
                        int64_t first_width, uint8_t *out) {
#ifdef HAVE_AVX2
    if (__builtin_cpu_supports("avx2"))
        return metric_learn_resize_avx2(source, height, width, stride, first_height, first_width, out);
#endif
    Work *work = aligned_alloc(64, (sizeof(Work) + 63) / 64 * 64);
    if (!work)
        return -1;
    plan(&work->x, width, first_width);
    plan(&work->y, height, first_height);
    for (int c = 0; c < work->x.count; c++)
        arrange(work->x.lanczos[c], work->weights[c]);
    for (int k = 0; k < TAPS; k++)
        work->held[k] = -1;
    work->line[0] = work->line[1] = -1;

    for (int i = 0; i < SIDE * CHANNELS; i++) {
        work->here[i] = work->x.linear[0][i / CHANNELS];
        work->there[i] = work->x.linear[1][i / CHANNELS];
    }
    for (int y = 0; y < SIDE; y++, out += SIDE * CHANNELS) {
        const int16_t *near = line(work, work->y.near[y], source, height, width, stride);
        const int16_t *far = line(work, work->y.far[y], source, height, width, stride);
        int16_t upper = work->y.linear[0][y], lower = work->y.linear[1][y];
        for (int i = 0; i < SIDE * CHANNELS; i++)
            out[i] = (uint8_t)(((upper * near[i] >> 16) + (lower * far[i] >> 16) + 2) >> 2);
    }
    free(work);
    return 0;
}
