// What this GPU reads and multiplies at most, as one JSON line: the rates of floors.
#include "gpu.cuh"

int main() {
    if (no_gpu("rates")) return SKIPPED;
    print_ceilings(measure_read(), measure_product());
    return 0;
}
