/* What a build without nvcc says when it is asked for a GPU. */
#include "compute/compute.h"

grace_status gr_compute_cuda_open(const gr_cuda_options *opt, gr_compute **out) {
    (void)opt, (void)out;
    return gr_fail(GRACE_ERR_UNSUPPORTED, "device cuda: this program was built without CUDA; build it where nvcc 12.4 or newer is found");
}

grace_status gr_compute_cuda_room(gr_compute *c, const gr_cuda_needs *needs) {
    (void)c, (void)needs;
    return GRACE_OK;
}

bool gr_compute_cuda_makes(const gr_compute *c) {
    (void)c;
    return false;
}
