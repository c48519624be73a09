/* Bounds of all cosine similarities between two sets of rows, from 8-bit integers (retrieval/quantised.py states them).
 *
 * A row x is kept as scale * q + e, q of int8, |e| known. With X >= |x|, E >= |e| and Q >= |scale * q|, a product of
 * two rows is within X1 E2 + E1 Q2 of scale1 scale2 (q1 . q2). Integers add exactly in any order. The kernel compares
 * each bound with its query's thresholds while it is in registers and writes only what they leave open.
 *
 * Needs AVX512-VNNI; metric_learn_int8_supported says whether this processor has it. The other functions run anywhere.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PANEL 64 /* images of one panel: four registers of 16 */
#define ROWS 6   /* queries at once: 6 * 4 sums fill 24 of the 32 registers */
#define STEPS 127

/* One set of rows; mirrored in int8_kernel.py. Arrays of a set that is on the right end on a whole panel. */
typedef struct {
    const int8_t *values;       /* [n, dim] */
    const uint8_t *packed;      /* [n / PANEL, dim / 4, PANEL, 4], 128 added; what dpbusd takes as its unsigned side */
    const float *scale, *norm, *error, *reach, *bias; /* X, E, Q above; bias is added to the product */
    const float *low_best, *high_best; /* thresholds of the row as a query; inf: none */
    float *low_cut;             /* raised to the least of `top` on the way */
    const int32_t *sum;         /* of q */
    const int32_t *label, *own; /* own: the image that a query leaves out, or -1 */
    const float *rows;          /* [n, width]: as they were, without padding */
    const double *inverse_norms;
    const int64_t *start;       /* [n + 1]: a query's part of top */
    float *top;                 /* for each query as many similarities as it has relevant images, all reached */
    uint8_t *lock;
} Side;

typedef struct {
    int32_t query, image;
    int32_t open, spare; /* open: 1 undecided against best, 2 may reach the cut */
    double middle;
} Pair;

typedef struct {
    Pair *pairs;
    int64_t count, settled;
    int64_t width;         /* numbers of a row */
    double offset, spread; /* a similarity minus offset compares with thresholds; how far off the float32 one can be */
} Out;

/* An orthonormal transform of 2^k numbers, which spreads what is in few of them over all. */
static void hadamard(float *x, int64_t n) {
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t i = 0; i < n; i += 2 * half)
            for (int64_t j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];
                x[j] = a + b, x[j + half] = a - b;
            }
    float scale = (float)(1 / sqrt((double)n));
    for (int64_t i = 0; i < n; i++)
        x[i] *= scale;
}

/* rows float32 [n, dim] -> (row * inverse_norm - mean), turned, as int8 [n, padded] with scale, sum, |x|^2, |e|^2 (of
 * what is turned, in float32) and bias = mean . x. Where dim is no power of two, two transforms overlap. */
int metric_learn_int8_quantise(const float *rows, const double *inverse_norms, const double *mean, const float *signs,
                               int64_t n, int64_t dim, int64_t padded, int8_t *values, float *scale, int32_t *sum,
                               double *square, double *error, double *bias) {
    int64_t power = 1;
    while (2 * power <= dim)
        power *= 2;
    float *x = malloc(dim * sizeof *x);
    if (!x)
        return 1;
    for (int64_t r = 0; r < n; r++) {
        const float *row = rows + r * dim;
        double squares[8] = {0}, biases[8] = {0};
        for (int64_t d = 0; d < dim; d++) {
            double centred = row[d] * inverse_norms[r] - mean[d];
            squares[d % 8] += centred * centred;
            biases[d % 8] += centred * mean[d];
            x[d] = (float)centred * signs[d];
        }
        hadamard(x, power);
        if (power < dim) {
            for (int64_t d = 0; d < dim; d++)
                x[d] *= signs[dim + d];
            hadamard(x + dim - power, power);
        }
        float most = 0;
        for (int64_t d = 0; d < dim; d++)
            most = fabsf(x[d]) > most ? fabsf(x[d]) : most;
        int tiny = most < 1e-30f; /* of such a row nothing is kept; its inverse may not be finite */
        float step = tiny ? 0 : most / STEPS, inverse = tiny ? 0 : STEPS / most;
        double errors[8] = {0};
        int32_t total = 0;
        int8_t *q = values + r * padded;
        memset(q + dim, 0, padded - dim);
        for (int64_t d = 0; d < dim; d++) {
            float shifted = x[d] * inverse;
            int32_t value = (int32_t)(shifted + (shifted < 0 ? -0.5f : 0.5f));
            value = value > STEPS ? STEPS : value < -STEPS ? -STEPS : value;
            q[d] = (int8_t)value;
            total += value;
            double missing = (double)x[d] - (double)step * value;
            errors[d % 8] += missing * missing;
        }
        scale[r] = step, sum[r] = total;
        square[r] = bias[r] = error[r] = 0;
        for (int k = 0; k < 8; k++)
            square[r] += squares[k], bias[r] += biases[k], error[r] += errors[k];
    }
    free(x);
    return 0;
}

/* values [n, dim] -> packed; rows beyond n are zero. */
void metric_learn_int8_pack(const int8_t *values, int64_t n, int64_t dim, uint8_t *packed) {
    for (int64_t panel = 0; panel * PANEL < n; panel++)
        for (int64_t row = 0; row < PANEL; row++) {
            uint8_t *out = packed + panel * PANEL * dim + row * 4;
            const int8_t *in = values + (panel * PANEL + row) * dim;
            for (int64_t d = 0; d < dim; d += 4, out += PANEL * 4)
                for (int k = 0; k < 4; k++)
                    out[k] = (uint8_t)((panel * PANEL + row < n ? in[d + k] : 0) + 128);
        }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define ALL(value) _mm512_set1_ps(value)
#define AT(array) _mm512_loadu_ps((array) + j)
#define GREATER(mask, a, b) _mm512_mask_cmp_ps_mask(mask, a, b, _CMP_GT_OQ)
#define REACHES(mask, a, b) _mm512_mask_cmp_ps_mask(mask, a, b, _CMP_GE_OQ)
#define VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

int metric_learn_int8_supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

VNNI static inline void products(const int8_t *const *rows, const uint8_t *panel, int64_t quads,
                                 const int32_t *sums, __m512i *made) {
    __m512i sum[ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++)
            sum[r][c] = _mm512_set1_epi32(-128 * sums[r]); /* takes back what the shift of the panel adds */
    for (int64_t k = 0; k < quads; k++) {
        __m512i column[4];
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++)
            column[c] = _mm512_loadu_si512(panel + 256 * k + 64 * c);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            int32_t four;
            memcpy(&four, rows[r] + 4 * k, 4);
            __m512i row = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++)
                sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], column[c], row);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++)
            made[4 * r + c] = sum[r][c];
}

/* In float32, 64 partial sums wide. */
VNNI static double similarity(const float *a, const float *b, int64_t n) {
    __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    int64_t d = 0;
    for (; d + 64 <= n; d += 64)
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++)
            sum[c] = _mm512_fmadd_ps(_mm512_loadu_ps(a + d + 16 * c), _mm512_loadu_ps(b + d + 16 * c), sum[c]);
    for (int c = 0; d < n; d += 16, c++) {
        __mmask16 valid = n - d >= 16 ? 0xffff : (__mmask16)((1u << (n - d)) - 1);
        sum[c] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(valid, a + d), _mm512_maskz_loadu_ps(valid, b + d), sum[c]);
    }
    __m512d total = _mm512_setzero_pd();
    for (int c = 0; c < 4; c++) {
        total = _mm512_add_pd(total, _mm512_cvtps_pd(_mm512_castps512_ps256(sum[c])));
        total = _mm512_add_pd(total, _mm512_cvtps_pd(_mm512_extractf32x8_ps(sum[c], 1)));
    }
    return _mm512_reduce_add_pd(total);
}

/* Another image reaches `least`: the query's cut may rise. Each pair comes here once. */
static void reached(const Side *side, int64_t query, double least) {
    while (__atomic_test_and_set(side->lock + query, __ATOMIC_ACQUIRE))
        ;
    float *lowest = side->top + side->start[query], *end = side->top + side->start[query + 1];
    for (float *one = lowest + 1; one < end; one++)
        lowest = *one < *lowest ? one : lowest;
    if (least > *lowest) {
        float below = nextafterf((float)least, -INFINITY);
        if (below > *lowest) {
            *lowest = below;
            float cut = below;
            for (float *one = side->top + side->start[query]; one < end; one++)
                cut = *one < cut ? *one : cut;
            __atomic_store(side->low_cut + query, &cut, __ATOMIC_RELAXED);
        }
    }
    __atomic_clear(side->lock + query, __ATOMIC_RELEASE);
}

/* Pairs of one row and 16 columns that the integers leave open: settled in float32, written where that is too coarse
 * or where the image may be among the query's first R. Returns those that are surely ahead. */
VNNI static uint32_t settle(Out *out, __mmask16 unsure, __mmask16 reach, int64_t row, int64_t column, int turned,
                            const Side *left, const Side *right) {
    uint32_t ahead = 0;
    for (uint32_t bits = unsure | reach; bits; bits &= bits - 1) {
        int lane = __builtin_ctz(bits);
        int64_t other = column + lane, query = turned ? other : row;
        const Side *side = turned ? right : left;
        if (left->label[row] == right->label[other])
            continue;
        out->settled++;
        double middle = similarity(left->rows + row * out->width, right->rows + other * out->width, out->width);
        middle = middle * left->inverse_norms[row] * right->inverse_norms[other] - out->offset;
        int open = 0;
        if (unsure >> lane & 1) {
            if (middle - out->spread > side->high_best[query])
                ahead |= 1u << lane;
            else if (middle + out->spread >= side->low_best[query])
                open = 1;
        }
        float cut;
        __atomic_load(side->low_cut + query, &cut, __ATOMIC_RELAXED);
        if (reach >> lane & 1 && middle + out->spread >= cut) {
            open |= 2;
            reached(side, query, middle - out->spread);
        }
        if (open)
            out->pairs[out->count++] = (Pair){(int32_t)query, (int32_t)(turned ? row : other), open, 0, middle};
    }
    return ahead;
}

/* Rows [row0, row1) of left against [column0, column1) of right, column0 on a whole panel; `both`: the columns are
 * queries too. ahead_rows, ahead_columns: how many are surely before best, added. *at: how many groups of rows are
 * done, of all panels; the call starts there and returns when they are all done or when fewer than 2 ROWS PANEL pairs
 * would fit. Adds to *settled the pairs that took float32. Returns the number of pairs that stay open. */
VNNI int64_t metric_learn_int8_compare(const Side *left, const Side *right, int64_t dim, int64_t width, int64_t row0,
                                       int64_t row1, int64_t column0, int64_t column1, float slack, double offset,
                                       double spread, int both, int32_t *ahead_rows, int32_t *ahead_columns,
                                       Pair *pairs, int64_t capacity, int64_t *position, int64_t *settled) {
    Out out = {pairs, 0, 0, width, offset, spread};
    int64_t groups = (row1 - row0 + ROWS - 1) / ROWS, panels = (column1 - column0 + PANEL - 1) / PANEL;
    __m512 spare = ALL(slack);
    for (; *position < groups * panels && out.count + 2 * ROWS * PANEL <= capacity; ++*position) {
        int64_t column = column0 + *position / groups * PANEL, row = row0 + *position % groups * ROWS;
        const uint8_t *panel = right->packed + column * dim;
        const int8_t *rows[ROWS];
        int32_t sums[ROWS];
        __m512i made[ROWS * 4];
        for (int r = 0; r < ROWS; r++) {
            int64_t at = row + r < row1 ? row + r : row1 - 1;
            rows[r] = left->values + at * dim;
            sums[r] = left->sum[at];
        }
        products(rows, panel, dim / 4, sums, made);
        for (int64_t at = row; at < row + ROWS && at < row1; at++)
            for (int c = 0; c < 4; c++) {
                int64_t j = column + 16 * c;
                if (j >= column1)
                    break;
                __mmask16 valid = column1 - j >= 16 ? 0xffff : (__mmask16)((1u << (column1 - j)) - 1);
                __m512 product = _mm512_cvtepi32_ps(made[4 * (at - row) + c]);
                __m512 scale = _mm512_mul_ps(ALL(left->scale[at]), AT(right->scale));
                __m512 bias = _mm512_add_ps(ALL(left->bias[at]), AT(right->bias));
                __m512 middle = _mm512_fmadd_ps(product, scale, bias);
                __m512 apart = _mm512_fmadd_ps(ALL(left->error[at]), AT(right->reach), spare);
                apart = _mm512_fmadd_ps(ALL(left->norm[at]), AT(right->error), apart);
                __m512 most = _mm512_add_ps(middle, apart), least = _mm512_sub_ps(middle, apart);
                int64_t own = left->own[at] - j;
                if (own >= 0 && own < 16)
                    valid &= (__mmask16)~(1u << own);
                __mmask16 clear = GREATER(valid, least, ALL(left->high_best[at]));
                __mmask16 unsure = REACHES(valid & ~clear, most, ALL(left->low_best[at]));
                __mmask16 reach = REACHES(valid, most, ALL(left->low_cut[at]));
                if (unsure | reach)
                    clear |= settle(&out, unsure, reach, at, j, 0, left, right);
                ahead_rows[at - row0] += __builtin_popcount(clear);
                if (!both)
                    continue;
                clear = GREATER(valid, least, AT(right->high_best));
                unsure = REACHES(valid & ~clear, most, AT(right->low_best));
                reach = REACHES(valid, most, AT(right->low_cut));
                if (unsure | reach)
                    clear |= settle(&out, unsure, reach, at, j, 1, left, right);
                int32_t *ahead = ahead_columns + (j - column0);
                for (uint32_t bits = clear; bits; bits &= bits - 1)
                    ahead[__builtin_ctz(bits)]++;
            }
    }
    *settled += out.settled;
    return out.count;
}
#else
int metric_learn_int8_supported(void) { return 0; }
#endif
