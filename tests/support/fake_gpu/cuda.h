/* In place of CUDA's (tests/support/fake_gpu.h). */
#ifndef TESTS_FAKE_CUDA_H
#define TESTS_FAKE_CUDA_H
typedef struct CUtensorMap { char unused[128]; } CUtensorMap;
#endif
