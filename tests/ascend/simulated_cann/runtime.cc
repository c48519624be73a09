// The runtime: devices, memory, loading a compiled model, running it. One input, one output, fixed shapes. Memory "of
// the device" is this process's own; a run is a call of network.cc, or a copy of the golden embedding.
// What only has to succeed (aclFinalize, aclrtSetCurrentContext, ...) is made by build.sh.
#include <dlfcn.h>
#include <glob.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>
#include <vector>

#include "records.h"

namespace {
constexpr int TO_DEVICE = 1;  // a kind of copy
constexpr int OK = 0, FAILED = 507899, BAD_DEVICE = 107001, BAD_MODEL = 500002;
constexpr int64_t DIM = 2048;  // of an embedding, float32

struct Model { Compiled compiled; int device; };
struct Buffer { void *data; size_t size; };
struct Dataset { std::vector<Buffer *> buffers; };
struct Dims { char name[128]; size_t count; int64_t dims[128]; };  // the layout that the caller of ...Dims expects

std::atomic<int64_t> copied{0};  // bytes to the device so far
std::mutex lock;  // a device runs one model at a time
std::map<uint32_t, Model> models;
int device = 0, runs = 0, loads = 0;  // of this process: MindSpore Serving gives every worker one device

// Calls use(item, number) for every "kind:number[:more]" of the list in SIMULATED_CANN_<name>, commas between.
template <class Use> void each(const char *name, Use use) {
  std::stringstream list(setting(name));
  for (std::string item; std::getline(list, item, ',');)
    use(item, item.find(':') + 1 ? item.substr(item.find(':') + 1) : "");
}

// SIMULATED_CANN_FAULT: kind:device[:after[:batch]]; so_far: what "after" counts.
bool faulty(const std::string &kind, int of_device, int so_far = runs, int64_t batch = 0) {
  bool result = false;
  if (access(setting("FAULT_FROM", "/").c_str(), F_OK)) return false;
  each("FAULT", [&](const std::string &item, const std::string &rest) {
    int number = -1, after = 0, only = 0;
    sscanf(rest.c_str(), "%d:%d:%d", &number, &after, &only);
    bool meant = item.compare(0, kind.size() + 1, kind + ":") == 0 && number == of_device;
    result |= meant && so_far >= after && (!only || only == batch);
  });
  if (result) Event("fault").add("kind", kind).add("device", of_device).add("after", so_far);
  return result;
}

// SIMULATED_CANN_RUN_MS: batch:ms, or one number for every batch
double run_ms(int64_t batch) {
  double result = 0;
  each("RUN_MS", [&](const std::string &item, const std::string &rest) {
    if (rest.empty() || atoll(item.c_str()) == batch) result = atof(rest.empty() ? item.c_str() : rest.c_str());
  });
  return result;
}

size_t bytes_of(int type) { return type == 0 || type == 3 ? 4 : type == 1 ? 2 : 1; }  // float32, int32; float16; 8 bits
size_t output_bytes(const Compiled &model) { return model.dims[0] * DIM * sizeof(float); }
size_t input_bytes(const Compiled &model) {
  size_t product = bytes_of(model.type);
  for (int i = 0; i < model.rank; i++) product *= model.dims[i];
  return product;
}

// To the next float16 and back, where SIMULATED_CANN_AIPP_FLOAT16 is set: the unit of a chip computes in that.
float rounded(float value) {
  static bool half = !setting("AIPP_FLOAT16").empty();
  int exponent = 0;
  if (!half || !value) return value;
  frexpf(value, &exponent);
  return ldexpf(rintf(ldexpf(value, 11 - exponent)), exponent - 11);
}

// What AIPP does: uint8 [N, H, W, 3] -> float [N, 3, H, W]
std::vector<float> aipp(const Compiled &model, const uint8_t *pixels) {
  int64_t area = model.dims[1] * model.dims[2];
  std::vector<float> result(model.dims[0] * 3 * area);
  for (int64_t image = 0; image < model.dims[0]; image++)
    for (int64_t at = 0; at < area; at++)
      for (int channel = 0; channel < 3; channel++) {
        float shifted = rounded(pixels[(image * area + at) * 3 + channel] - model.mean[channel] - rounded(model.min[channel]));
        result[(image * 3 + channel) * area + at] = rounded(shifted * rounded(model.var_reci[channel]));
      }
  return result;
}

// network.cc is a library of its own, opened late: it needs MindSpore Lite, which loads this one.
std::string run_network(const Compiled &model, const void *input, void *output) {
  using Run = const char *(const char *, const void *, size_t, void *, size_t);
  Dl_info here;
  dladdr(reinterpret_cast<void *>(&run_network), &here);
  std::string library = here.dli_fname;
  library = library.substr(0, library.rfind('/')) + "/libsimulated_network.so";
  static Run *run = reinterpret_cast<Run *>(dlsym(dlopen(library.c_str(), RTLD_NOW), "simulated_network_run"));
  if (!run) return dlerror();
  glob_t found{};
  std::string pattern = std::string(model.folder) + "/*_b" + std::to_string(model.dims[0]);
  pattern += model.aipp ? ".aipp.mindir" : ".mindir";
  if (glob(pattern.c_str(), 0, nullptr, &found)) return "there is no " + pattern;
  std::vector<float> normalised;
  size_t bytes_in = input_bytes(model);
  if (model.aipp) {
    normalised = aipp(model, static_cast<const uint8_t *>(input));
    input = normalised.data();
    bytes_in = normalised.size() * sizeof(float);
  }
  const char *error = run(found.gl_pathv[0], input, bytes_in, output, output_bytes(model));
  globfree(&found);
  return error ? error : "";
}

// For work on scheduling: every row is the golden embedding, the last 2048 floats of golden.npy, at no cost.
std::string copy_golden(const Compiled &model, float *output) {
  std::ifstream file(std::string(model.folder) + "/golden.npy", std::ios::binary);
  file.seekg(-int(DIM * sizeof(float)), std::ios::end);
  if (!file.read(reinterpret_cast<char *>(output), DIM * sizeof(float))) return "no golden.npy";
  for (int64_t row = 1; row < model.dims[0]; row++) std::copy(output, output + DIM, output + row * DIM);
  return "";
}

std::string run(const Model &model, const void *input, float *output) {
  double start = now_ms();
  int64_t batch = model.compiled.dims[0];
  auto fault = [&](const char *kind) { return faulty(kind, model.device, runs, batch); };
  if (fault("execute")) return "SIMULATED_CANN_FAULT";
  if (fault("abort")) abort();
  if (fault("hang")) for (;;) pause();
  bool golden = setting("NUMBERS", "network") == "golden";
  std::string error = golden ? copy_golden(model.compiled, output) : run_network(model.compiled, input, output);
  if (error.empty() && fault("wrong")) std::reverse(output, output + batch * DIM);
  if (error.empty() && fault("nan")) std::fill(output + (batch - 1) * DIM, output + batch * DIM, NAN);
  double rest = run_ms(batch) * (fault("slow") ? 100 : 1) - (now_ms() - start);
  runs++;
  if (rest > 0) std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(rest));
  return error;
}
}  // namespace

extern "C" {
// A library that ends the process that opens it.
__attribute__((constructor)) void opened() { if (!setting("ABORT").empty()) abort(); }

// Devices and memory.
int aclInit(const char *) { Event("init"); return OK; }
const char *aclrtGetSocName() { static std::string name = setting("SOC", "Ascend310"); return name.c_str(); }
int aclrtGetDeviceCount(uint32_t *count) { *count = atoi(setting("DEVICES", "1").c_str()); return OK; }
int aclrtSetDevice(int id) {
  std::string node = "/dev/davinci" + std::to_string(id);
  bool fine = access(node.c_str(), R_OK | W_OK) == 0 && !faulty("setdevice", id);
  Event("set_device").add("device", device = id).add("result", fine ? OK : BAD_DEVICE);
  return fine ? OK : BAD_DEVICE;
}
int aclrtCreateContext(void **context, int) { *context = &device; return OK; }
int aclrtGetRunMode(int *mode) { *mode = 1; return OK; }  // host and device are apart: callers copy
int aclrtMalloc(void **p, size_t n, int) { return (*p = calloc(1, n)) ? OK : FAILED; }
int aclrtMallocHost(void **p, size_t n) { return (*p = calloc(1, n)) ? OK : FAILED; }
int aclrtFree(void *p) { free(p); return OK; }
int aclrtFreeHost(void *p) { free(p); return OK; }
int aclrtMemcpy(void *to, size_t room, const void *from, size_t n, int kind) {
  if (kind == TO_DEVICE) copied += n;
  return n <= room && memcpy(to, from, n) ? OK : FAILED;
}

// Models, and descriptions of them.
int aclmdlLoadFromMem(const void *data, size_t size, uint32_t *id) {
  std::lock_guard<std::mutex> guard(lock);
  if (faulty("hang_load", device, loads++)) for (;;) pause();
  Model model{{}, device};
  if (size >= sizeof(Compiled)) memcpy(&model.compiled, data, sizeof(Compiled));
  if (memcmp(model.compiled.magic, MAGIC, sizeof MAGIC)) return BAD_MODEL;
  if (!version_folder().empty())  // it may lie elsewhere than where it was compiled
    strncpy(model.compiled.folder, version_folder().c_str(), sizeof model.compiled.folder - 1);
  *id = models.empty() ? 1 : models.rbegin()->first + 1;
  models[*id] = model;
  Event("load").add("model", *id).add("device", device).add("batch", model.compiled.dims[0]);
  return OK;
}
int aclmdlUnload(uint32_t id) {
  std::lock_guard<std::mutex> guard(lock);
  Event("unload").add("model", id).add("device", device);
  return models.erase(id) ? OK : BAD_MODEL;
}
Compiled *aclmdlCreateDesc() { return new Compiled(); }
int aclmdlDestroyDesc(Compiled *d) { delete d; return OK; }
int aclmdlGetDesc(Compiled *d, uint32_t id) {
  std::lock_guard<std::mutex> guard(lock);
  if (!models.count(id)) return BAD_MODEL;
  *d = models[id].compiled;
  return OK;
}
size_t aclmdlGetNumInputs(Compiled *) { return 1; }
size_t aclmdlGetNumOutputs(Compiled *) { return 1; }
size_t aclmdlGetInputSizeByIndex(Compiled *d, size_t) { return input_bytes(*d); }
size_t aclmdlGetOutputSizeByIndex(Compiled *d, size_t) { return output_bytes(*d); }
const char *aclmdlGetInputNameByIndex(Compiled *, size_t) { return "pixels"; }
const char *aclmdlGetOutputNameByIndex(Compiled *, size_t) { return "features"; }
int aclmdlGetInputDataType(Compiled *d, size_t) { return d->type; }
int aclmdlGetInputDims(Compiled *d, size_t, Dims *out) {
  *out = {"", size_t(d->rank), {}};
  std::copy(d->dims, d->dims + d->rank, out->dims);
  return OK;
}
int aclmdlGetInputDimsV2(Compiled *d, size_t i, Dims *out) { return aclmdlGetInputDims(d, i, out); }
int aclmdlGetOutputDims(Compiled *d, size_t, Dims *out) { *out = {"", 2, {d->dims[0], DIM}}; return OK; }
int aclmdlGetCurOutputDims(Compiled *d, size_t i, Dims *out) { return aclmdlGetOutputDims(d, i, out); }
// Nothing about a model is dynamic: no such input, no list of batch sizes or of image sizes.
int aclmdlGetInputIndexByName(Compiled *, const char *, size_t *) { return FAILED; }
int aclmdlGetInputDynamicDims(Compiled *, size_t, void *, size_t) { return FAILED; }
int aclmdlGetInputDynamicGearCount(Compiled *, size_t, size_t *count) { *count = 0; return OK; }
int aclmdlGetDynamicBatch(Compiled *, uint64_t *count) { *count = 0; return OK; }
int aclmdlGetDynamicHW(Compiled *, size_t, uint64_t *count) { *count = 0; return OK; }
void *aclCreateTensorDesc(int, int, const int64_t *, int) { return &device; }
int aclmdlSetDatasetTensorDesc(Dataset *, void *, size_t) { return OK; }

// Buffers, and a run.
Buffer *aclCreateDataBuffer(void *data, size_t size) { return new Buffer{data, size}; }
int aclDestroyDataBuffer(Buffer *b) { delete b; return OK; }
void *aclGetDataBufferAddr(Buffer *b) { return b->data; }
int aclUpdateDataBuffer(Buffer *b, void *data, size_t size) { *b = {data, size}; return OK; }
Dataset *aclmdlCreateDataset() { return new Dataset(); }
int aclmdlDestroyDataset(Dataset *s) { delete s; return OK; }
int aclmdlAddDatasetBuffer(Dataset *s, Buffer *b) { s->buffers.push_back(b); return OK; }
size_t aclmdlGetDatasetNumBuffers(Dataset *s) { return s->buffers.size(); }
Buffer *aclmdlGetDatasetBuffer(Dataset *s, size_t i) { return s->buffers.at(i); }
size_t aclDataTypeSize(int type) { return bytes_of(type); }
int aclmdlExecute(uint32_t id, Dataset *in, Dataset *out) {
  std::lock_guard<std::mutex> guard(lock);
  if (!models.count(id) || in->buffers.size() != 1 || out->buffers.size() != 1) return BAD_MODEL;
  const Model &model = models[id];
  Buffer &input = *in->buffers[0], &output = *out->buffers[0];
  if (input.size < input_bytes(model.compiled) || output.size < output_bytes(model.compiled)) return FAILED;
  double start = now_ms();
  int64_t copied_before = copied;
  std::string error = run(model, input.data, static_cast<float *>(output.data));
  Event event("execute");
  event.add("device", model.device).add("batch", model.compiled.dims[0]).add("bytes_in", input.size);
  event.add("copied_meanwhile", copied - copied_before);
  event.add_ms("ms", now_ms() - start).add("result", error.empty() ? OK : FAILED);
  if (!error.empty()) event.add("error", error);
  return error.empty() ? OK : FAILED;
}
}
