/* Dense products by cuBLASLt. It sees columns first: out^T [outs, n_rows] = W x^T, so its A is W (transposed), its B is x, its C and D are out.
 * Algorithms come from its heuristics, once per shape and bucket of rows, and stay. Sums split over columns go through the workspace and are added in
 * order; the scheme that adds in place is left out. */
#include <cublasLt.h>
#include <dlfcn.h>
#include <string.h>

#include "base/memory.h"
#include "compute/cuda/linear_kernels.h"

/* Bucket i holds rows 2^e + q 2^e / 4 + 1 .. 2^e + (q + 1) 2^e / 4, i = 4 (e - 4) + q: from 17 rows on. */
enum { BUCKET_ROWS_MIN = GR_CUDA_FEW_ROWS + 1, LOG_MIN = 4, N_BUCKETS = 64, N_CANDIDATES = 8, ALIGNMENT = 16, ROWS_MAX = 1 << 20 };
static const size_t WORKSPACE_BYTES = (size_t)32 << 20;

/* ---- the library: opened when it is first wanted, since it costs a program, used or not, a tenth of a second to start with it ---- */

#define LT_CALLS(X)                                                                                                                                     \
    X(Create) X(Destroy) X(GetStatusString) X(MatmulPreferenceCreate) X(MatmulPreferenceDestroy) X(MatmulPreferenceSetAttribute) X(MatmulDescCreate)      \
    X(MatmulDescDestroy) X(MatmulDescSetAttribute) X(MatrixLayoutInit_internal) X(MatrixLayoutSetAttribute) X(MatmulAlgoCheck) X(MatmulAlgoGetHeuristic) \
    X(Matmul)

static struct {
    bool is_there;
#define X(name) __typeof__(&cublasLt##name) name;
    LT_CALLS(X)
#undef X
} api;

static grace_status find_calls(void *library) {
    grace_status st = GRACE_OK;
#define X(name)                                                                                                                                         \
    api.name = (__typeof__(&cublasLt##name))dlsym(library, "cublasLt" #name);                                                                           \
    GR_CHECK(api.name, GRACE_ERR_UNSUPPORTED, "cuBLASLt: the library has no cublasLt" #name);
    LT_CALLS(X)
#undef X
done:
    return st;
}

/* Of the version whose header this is compiled with. */
static grace_status load_library(void) {
    grace_status st = GRACE_OK;
    char name[32];
    if (api.is_there) return GRACE_OK;
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) library = dlopen(GRACE_CUBLASLT_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    GR_CHECK(library, GRACE_ERR_UNSUPPORTED, "cuBLASLt: %s", dlerror());
    GR_TRY(find_calls(library));
    api.is_there = true;
done:
    return st;
}

/* ---- opening ---- */

/* The products that share algorithms, but for their rows. */
typedef struct lt_shape {
    int32_t outs, cols, n_heads;
    bool out_fp32;
    bool known[N_BUCKETS];
    cublasLtMatmulAlgo_t algorithm[N_BUCKETS];
} lt_shape;

struct gr_cuda_lt {
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulDesc_t product;           /* W^T x */
    void *workspace;
    lt_shape *shapes;
    int32_t n_shapes;
};

static grace_status lt_status(cublasStatus_t status, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS) return GRACE_OK;
    return gr_fail(status == CUBLAS_STATUS_ALLOC_FAILED ? GRACE_ERR_MEMORY : GRACE_ERR_UNSUPPORTED, "cuBLASLt: %s: %s", what, api.GetStatusString(status));
}

static grace_status prefer(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t what, const void *value, size_t n) {
    return lt_status(api.MatmulPreferenceSetAttribute(p, what, value, n), "preference");
}

static grace_status set_preferences(cublasLtMatmulPreference_t p) {
    grace_status st = GRACE_OK;
    const uint64_t bytes = WORKSPACE_BYTES;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, alignment = ALIGNMENT;
    const cublasLtMatmulPreferenceAttributes_t aligned[] = {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    GR_TRY(prefer(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes));
    GR_TRY(prefer(p, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes));
    for (size_t i = 0; i < sizeof aligned / sizeof *aligned; i++) GR_TRY(prefer(p, aligned[i], &alignment, sizeof alignment));
done:
    return st;
}

grace_status gr_cuda_lt_open(gr_cuda_lt **out) {
    grace_status st = GRACE_OK;
    gr_cuda_lt *lt = NULL;
    const cublasOperation_t turned = CUBLAS_OP_T;
    GR_TRY(load_library());
    GR_CALLOC(lt, 1);
    GR_TRY(lt_status(api.Create(&lt->handle), "create"));
    GR_TRY(lt_status(api.MatmulPreferenceCreate(&lt->preference), "preference"));
    GR_TRY(set_preferences(lt->preference));
    GR_TRY(lt_status(api.MatmulDescCreate(&lt->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "product"));
    GR_TRY(lt_status(api.MatmulDescSetAttribute(lt->product, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned), "product"));
    GR_TRY(gr_cuda_status(cudaMalloc(&lt->workspace, WORKSPACE_BYTES), "workspace of cuBLASLt"));
    *out = lt, lt = NULL;
done:
    gr_cuda_lt_close(lt);
    return st;
}

void gr_cuda_lt_close(gr_cuda_lt *lt) {
    if (!lt) return;
    if (lt->product) api.MatmulDescDestroy(lt->product);
    if (lt->preference) api.MatmulPreferenceDestroy(lt->preference);
    if (lt->handle) api.Destroy(lt->handle);
    cudaFree(lt->workspace);
    free(lt->shapes), free(lt);
}

static bool aligned(const void *p) { return (uintptr_t)p % ALIGNMENT == 0; }

bool gr_cuda_lt_takes(const gr_cuda_product *p) {
    const int64_t out_bytes = p->out_fp32 ? 4 : 2;
    const int64_t bytes[] = {2 * (int64_t)p->cols, 2 * p->x_step, 2 * p->x_head_step, out_bytes * p->outs,
                             out_bytes * p->out_step, out_bytes * p->out_head_step};
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++)
        if (bytes[i] % ALIGNMENT) return false;
    return aligned(p->w) && aligned(p->x) && aligned(p->out) && p->n_rows <= ROWS_MAX;
}

/* ---- descriptions: on the stack, a product allocates nothing ---- */
typedef struct lt_layouts { cublasLtMatrixLayoutOpaque_t w, x, out; } lt_layouts;

static grace_status lay_out(cublasLtMatrixLayout_t l, cudaDataType_t type, int32_t height, int32_t width, int64_t step, int32_t n_heads, int64_t head_step) {
    grace_status st = GRACE_OK;
    GR_TRY(lt_status(api.MatrixLayoutInit_internal(l, sizeof(cublasLtMatrixLayoutOpaque_t), type, (uint64_t)height, (uint64_t)width, step), "layout"));
    GR_TRY(lt_status(api.MatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n_heads, sizeof n_heads), "layout"));
    GR_TRY(lt_status(api.MatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &head_step, sizeof head_step), "layout"));
done:
    return st;
}

static grace_status lay_out_all(const gr_cuda_product *p, int32_t n_rows, lt_layouts *l) {
    grace_status st = GRACE_OK;
    GR_TRY(lay_out(&l->w, CUDA_R_16BF, p->cols, p->outs, p->cols, p->n_heads, (int64_t)p->outs * p->cols));
    GR_TRY(lay_out(&l->x, CUDA_R_16BF, p->cols, n_rows, p->x_step, p->n_heads, p->x_head_step));
    GR_TRY(lay_out(&l->out, p->out_fp32 ? CUDA_R_32F : CUDA_R_16BF, p->outs, n_rows, p->out_step, p->n_heads, p->out_head_step));
done:
    return st;
}

/* ---- the table ---- */
static int32_t bucket_of(int32_t n_rows) {
    int32_t below = n_rows - 1, e = 31 - __builtin_clz((unsigned)below);
    return n_rows < BUCKET_ROWS_MIN ? 0 : 4 * (e - LOG_MIN) + (below >> (e - 2) & 3);
}

static int32_t rows_before_bucket(int32_t i) { return (4 + i % 4) << (i / 4 + LOG_MIN - 2); }     /* the most rows of bucket i - 1 */

static grace_status shape_of(gr_cuda_lt *lt, const gr_cuda_product *p, lt_shape **out) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < lt->n_shapes; i++) {
        lt_shape *s = &lt->shapes[i];
        *out = s;
        if (s->outs == p->outs && s->cols == p->cols && s->n_heads == p->n_heads && s->out_fp32 == p->out_fp32) return GRACE_OK;
    }
    lt_shape *grown = realloc(lt->shapes, sizeof *grown * ((size_t)lt->n_shapes + 1));
    GR_CHECK(grown, GRACE_ERR_MEMORY, "no memory for %d shapes of products", lt->n_shapes + 1);
    lt->shapes = grown, *out = &grown[lt->n_shapes++];
    **out = (lt_shape){.outs = p->outs, .cols = p->cols, .n_heads = p->n_heads, .out_fp32 = p->out_fp32};
done:
    return st;
}

static bool runs(const gr_cuda_lt *lt, lt_layouts *l, const cublasLtMatmulAlgo_t *algorithm) {
    cublasLtMatmulHeuristicResult_t result;
    return !api.MatmulAlgoCheck(lt->handle, lt->product, &l->w, &l->x, &l->out, &l->out, algorithm, &result) &&
           result.workspaceSize <= WORKSPACE_BYTES;
}

/* The first of the heuristics' for the bucket's most rows that runs with its fewest, too. */
static grace_status choose(gr_cuda_lt *lt, const gr_cuda_product *p, int32_t bucket, cublasLtMatmulAlgo_t *out) {
    grace_status st = GRACE_OK;
    const int32_t least = rows_before_bucket(bucket) + 1, most = rows_before_bucket(bucket + 1);
    lt_layouts low, high;
    cublasLtMatmulHeuristicResult_t found[N_CANDIDATES];
    int n_found = 0, i = 0;
    GR_TRY(lay_out_all(p, least, &low));
    GR_TRY(lay_out_all(p, most, &high));
    GR_TRY(lt_status(api.MatmulAlgoGetHeuristic(lt->handle, lt->product, &high.w, &high.x, &high.out, &high.out, lt->preference, N_CANDIDATES, found,
                                                &n_found), "heuristics"));
    while (i < n_found && (found[i].state || !runs(lt, &low, &found[i].algo))) i++;
    GR_CHECK(i < n_found, GRACE_ERR_UNSUPPORTED, "cuBLASLt: none of %d algorithms takes %d to %d rows times [%d, %d] in %d parts", n_found, least, most,
             p->outs, p->cols, p->n_heads);
    *out = found[i].algo;
done:
    return st;
}

static grace_status algorithm_of(gr_cuda_lt *lt, const gr_cuda_product *p, const cublasLtMatmulAlgo_t **out) {
    grace_status st = GRACE_OK;
    const int32_t bucket = bucket_of(p->n_rows);
    lt_shape *s;
    GR_TRY(shape_of(lt, p, &s));
    if (!s->known[bucket]) GR_TRY(choose(lt, p, bucket, &s->algorithm[bucket]));
    s->known[bucket] = true;
    *out = &s->algorithm[bucket];
done:
    return st;
}

grace_status gr_cuda_lt_prepare(gr_cuda_lt *lt, const gr_cuda_product *p, int32_t n_rows_min) {
    grace_status st = GRACE_OK;
    const cublasLtMatmulAlgo_t *algorithm;
    const int32_t last = bucket_of(p->n_rows);
    for (int32_t bucket = bucket_of(n_rows_min); bucket <= last; bucket++) {
        gr_cuda_product some = *p;
        some.n_rows = rows_before_bucket(bucket + 1);
        GR_TRY(algorithm_of(lt, &some, &algorithm));
    }
done:
    return st;
}

grace_status gr_cuda_lt_run(gr_cuda_lt *lt, const gr_cuda_product *p, cudaStream_t stream) {
    grace_status st = GRACE_OK;
    const float one = 1, kept = p->add ? 1 : 0;
    const cublasLtMatmulAlgo_t *algorithm;
    lt_layouts l;
    GR_TRY(algorithm_of(lt, p, &algorithm));
    GR_TRY(lay_out_all(p, p->n_rows, &l));
    GR_TRY(lt_status(api.Matmul(lt->handle, lt->product, &one, p->w, &l.w, p->x, &l.x, &kept, p->out, &l.out, p->out, &l.out, algorithm, lt->workspace,
                                WORKSPACE_BYTES, stream), "product"));
done:
    return st;
}
