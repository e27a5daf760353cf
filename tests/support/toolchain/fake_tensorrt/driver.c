/* A stand-in for libcuda.so.1: the part of the driver that the program calls, with the host's memory as a GPU's.
   FAKE_SM is the compute capability (90 where it is not set); FAKE_CUDA_FAULT names a function that fails. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int fails(const char *name) {
  const char *fault = getenv("FAKE_CUDA_FAULT");
  return fault && !strcmp(fault, name) ? 2 : 0; /* CUDA_ERROR_OUT_OF_MEMORY */
}
int cuInit(unsigned flags) { return fails("cuInit"); }
int cuDeviceGet(int *device, int number) { *device = number; return fails("cuDeviceGet"); }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = context; return 0; }
int cuCtxSetCurrent(void *context) { return context ? 0 : 201; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  const char *given = getenv("FAKE_SM");
  int sm = given ? atoi(given) : 90;
  *value = attribute == 75 ? sm / 10 : attribute == 76 ? sm % 10 : -1;
  return 0;
}
int cuGetErrorName(int error, const char **name) {
  *name = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
  return 0;
}
int cuMemAlloc_v2(uint64_t *address, size_t size) {
  *address = (uint64_t)malloc(size);
  return fails("cuMemAlloc_v2");
}
int cuMemHostRegister_v2(void *host, size_t size, unsigned flags) { return fails("cuMemHostRegister_v2"); }
int cuStreamCreate(void **stream, unsigned flags) { *stream = malloc(1); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t device, void *host, size_t size, void *stream) {
  memcpy((void *)device, host, size);
  return 0;
}
int cuMemcpyDtoHAsync_v2(void *host, uint64_t device, size_t size, void *stream) {
  memcpy(host, (void *)device, size);
  return 0;
}
int cuStreamSynchronize(void *stream) { return stream ? 0 : 400; }
