// The numbers of a run: the same MindIR through MindSpore Lite's own CPU backend, inside the worker.
// MindSpore Lite 2.0.0 exports no C API, so the few classes that are needed are declared here, as far as they are
// used: sizes and the place of a virtual function were read off the library's symbols and constructors.
// Compiled with the wheel's C++ ABI; linked against nothing: the worker has MindSpore Lite loaded already.
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "records.h"

namespace mindspore {
enum ModelType : uint32_t { MINDIR = 0 };
enum DeviceType { CPU = 0 };
class MSCallBackParam;

class Status {
 public:
  bool IsOk() const;
 private:
  std::shared_ptr<void> content_;
};

class DeviceInfoContext : public std::enable_shared_from_this<DeviceInfoContext> {
 public:
  DeviceInfoContext();
  virtual ~DeviceInfoContext() {}
  virtual DeviceType GetDeviceType() const = 0;
 private:
  std::shared_ptr<void> content_;
};
struct OnCpu : DeviceInfoContext {
  DeviceType GetDeviceType() const override { return CPU; }
};

class Context {
 public:
  Context();
  void SetThreadNum(int count);
  std::vector<std::shared_ptr<DeviceInfoContext>> &MutableDeviceInfo();
 private:
  std::shared_ptr<void> content_;
};

class MSTensor {
 public:
  MSTensor();
  ~MSTensor();
  std::shared_ptr<const void> Data() const;
  void *MutableData();
  size_t DataSize() const;
 private:
  std::shared_ptr<void> content_;
};

class Model {
 public:
  using Callback = std::function<bool(const std::vector<MSTensor> &, const std::vector<MSTensor> &,
                                      const MSCallBackParam &)>;
  Model();
  Status Build(const std::vector<char> &path, ModelType type, const std::shared_ptr<Context> &context);
  std::vector<MSTensor> GetInputs();
  Status Predict(const std::vector<MSTensor> &in, std::vector<MSTensor> *out, const Callback &, const Callback &);
 private:
  std::shared_ptr<void> content_;
};
}  // namespace mindspore

using namespace mindspore;

// Returns null, or what went wrong. A model stays loaded until the worker ends.
extern "C" const char *simulated_network_run(const char *path, const void *input, size_t bytes_in, void *output,
                                        size_t bytes_out) {
  static std::mutex lock;
  static std::map<std::string, Model *> &models = *new std::map<std::string, Model *>;
  std::lock_guard<std::mutex> guard(lock);
  Model *&model = models[path];
  if (!model) {
    double start = now_ms();
    auto context = std::make_shared<Context>();
    context->SetThreadNum(atoi(setting("THREADS", "1").c_str()));
    context->MutableDeviceInfo().push_back(std::make_shared<OnCpu>());
    auto built = std::make_unique<Model>();
    if (!built->Build(std::vector<char>(path, path + strlen(path)), MINDIR, context).IsOk())
      return "MindSpore Lite does not build this MindIR for the CPU";
    model = built.release();
    Event("network").add("file", path).add("ms", int64_t(now_ms() - start));
  }
  std::vector<MSTensor> in = model->GetInputs(), out;
  if (in.size() != 1 || in[0].DataSize() != bytes_in) return "the MindIR takes another input";
  memcpy(in[0].MutableData(), input, bytes_in);
  if (!model->Predict(in, &out, nullptr, nullptr).IsOk()) return "MindSpore Lite does not run this MindIR";
  if (out.size() != 1 || out[0].DataSize() != bytes_out) return "the MindIR gives another output";
  memcpy(output, out[0].Data().get(), bytes_out);
  return nullptr;
}
