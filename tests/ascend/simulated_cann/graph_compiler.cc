// The graph compiler: takes the graph that MindSpore Lite makes of a MindIR, records what it was asked to compile and
// with which options, and hands back a Compiled. It accepts every operator: nothing here knows what a chip can run.
//
// Names and argument types come from `nm -C` of Lite's libraries. Every class is taken to be one shared pointer, which
// works; Operator has a virtual table before it, as Lite's inlined destructor shows. Only what Lite needs to get an
// answer from has a body; the rest is made by build.sh. Built with the C++ ABI of the wheel, all inline functions kept.
#include <dlfcn.h>
#include <sys/stat.h>

#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "records.h"

using std::make_shared;
using std::shared_ptr;
using std::string;
using std::vector;

namespace ge {
enum Format : int { ANY = 2 };
enum DataType : int { FLOAT = 0, UINT8 = 4 };
using graphStatus = uint32_t;
constexpr graphStatus DONE = 0;

struct AscendString {
  AscendString(const char *text) : text_(make_shared<string>(text ? text : "")) {}
  const char *GetString() const { return text_ ? text_->c_str() : ""; }
  shared_ptr<string> text_;
};

struct Shape {
  Shape() : dims_(make_shared<vector<int64_t>>()) {}
  Shape(const vector<int64_t> &dims) : dims_(make_shared<vector<int64_t>>(dims)) {}
  size_t GetDimNum() const { return dims_->size(); }
  vector<int64_t> GetDims() const { return *dims_; }
  shared_ptr<vector<int64_t>> dims_;
};

struct TensorDesc {
  struct Content { Shape shape; Format format; DataType type; };
  TensorDesc() : TensorDesc(Shape(), ANY, FLOAT) {}
  TensorDesc(Shape s, Format f, DataType t) : content_(make_shared<Content>(Content{s, f, t})) {}
  TensorDesc(const TensorDesc &other) : content_(other.content_) {}
  TensorDesc(TensorDesc &&other) : content_(other.content_) {}
  TensorDesc &operator=(const TensorDesc &other) = default;
  Shape GetShape() const { return content_->shape; }
  Format GetFormat() const { return content_->format; }
  DataType GetDataType() const { return content_->type; }
  shared_ptr<Content> content_;
};

struct Tensor {  // a constant
  struct Content { TensorDesc desc; string bytes; };
  Tensor() : content_(make_shared<Content>()) {}
  Tensor(const TensorDesc &d, const uint8_t *data, size_t size)
      : content_(make_shared<Content>(Content{d, string(reinterpret_cast<const char *>(data), size)})) {}
  TensorDesc GetTensorDesc() const { return content_->desc; }
  size_t GetSize() const { return content_->bytes.size(); }
  shared_ptr<Content> content_;
};

struct Node {
  string name, type;
  vector<shared_ptr<Node>> inputs;
  std::map<string, TensorDesc> descs;  // of inputs and outputs
  size_t constant_bytes = 0;
};

struct Operator {
  Operator(const string &name, const string &type) : node(make_shared<Node>(Node{name, type, {}, {}})) {}
  Operator(const char *name, const char *type) : Operator(string(name), string(type)) {}
  Operator(const AscendString &name, const AscendString &type) : Operator(name.GetString(), type.GetString()) {}
  Operator(const char *type) : Operator(string(), string(type)) {}
  virtual ~Operator() {}
  string GetName() const { return node->name; }
  string GetOpType() const { return node->type; }
  Operator &from(const Operator &other) { node->inputs.push_back(other.node); return *this; }
  Operator &SetInput(const string &, const Operator &other) { return from(other); }
  Operator &SetInput(const string &, const Operator &other, const string &) { return from(other); }
  Operator &SetInput(const char *, const Operator &other) { return from(other); }
  Operator &SetInput(const char *, const Operator &other, const char *) { return from(other); }
  Operator &SetInput(const char *, uint32_t, const Operator &other) { return from(other); }
  Operator &SetInput(const char *, uint32_t, const Operator &other, const char *) { return from(other); }
  graphStatus describe(const string &name, const TensorDesc &desc) { node->descs[name] = desc; return DONE; }
  graphStatus UpdateInputDesc(const string &name, const TensorDesc &desc) { return describe(name, desc); }
  graphStatus UpdateInputDesc(const char *name, const TensorDesc &desc) { return describe(name, desc); }
  graphStatus UpdateOutputDesc(const string &name, const TensorDesc &desc) { return describe(name, desc); }
  graphStatus UpdateOutputDesc(const char *name, const TensorDesc &desc) { return describe(name, desc); }
  Operator &SetAttr(const char *, const Tensor &value) { node->constant_bytes += value.GetSize(); return *this; }
  shared_ptr<Node> node;
};

struct GNode { shared_ptr<void> content_; };

struct Graph {
  struct Content { string name; vector<Operator> outputs; };
  Graph(const string &name) : content_(make_shared<Content>(Content{name, {}})) {}
  Graph(const char *name) : Graph(string(name)) {}
  const string &GetName() const { return content_->name; }
  Graph &SetInputs(const vector<Operator> &) { return *this; }
  Graph &SetOutputs(const vector<Operator> &list) { content_->outputs = list; return *this; }
  Graph &SetOutputs(const vector<std::pair<Operator, string>> &list) {
    for (const auto &one : list) content_->outputs.push_back(one.first);
    return *this;
  }
  vector<GNode> GetDirectNode() const { return {}; }  // Lite's own passes over the graph find nothing to do
  shared_ptr<Content> content_;
};

using Options = std::map<string, string>;
static string json(const Options &options) {
  string text;
  for (const auto &one : options) text += (text.empty() ? "" : ", ") + quoted(one.first) + ": " + quoted(one.second);
  return "{" + text + "}";
}
static void walk(Node *node, std::set<Node *> &seen) {
  if (!node || !seen.insert(node).second) return;
  for (const auto &input : node->inputs) walk(input.get(), seen);
}

graphStatus aclgrphBuildInitialize(Options options) {
  Event("build_initialize").raw("options", json(options));
  return DONE;
}

// The file of option ge.insertOpFile, as far as it is simulated: three bytes a pixel, no change of colours or of size.
// False for anything else in it.
static bool read_aipp(const string &path, Compiled &compiled) {
  std::ifstream file(path);
  string key, value;
  if (!(file >> key >> value) || key != "aipp_op" || value != "{") return false;
  const std::map<string, string> fixed = {{"aipp_mode:", "static"}, {"input_format:", "RGB888_U8"},
    {"csc_switch:", "false"}, {"rbuv_swap_switch:", "false"},
    {"src_image_size_w:", std::to_string(compiled.dims[3])}, {"src_image_size_h:", std::to_string(compiled.dims[2])}};
  while (file >> key && key != "}") {
    if (!(file >> value)) return false;
    int channel = 0;
    if (sscanf(key.c_str(), "mean_chn_%d:", &channel) == 1) compiled.mean[channel % 3] = stoi(value);
    else if (sscanf(key.c_str(), "min_chn_%d:", &channel) == 1) compiled.min[channel % 3] = stof(value);
    else if (sscanf(key.c_str(), "var_reci_chn_%d:", &channel) == 1) compiled.var_reci[channel % 3] = stof(value);
    else if (!fixed.count(key) || fixed.at(key) != value) return false;
  }
  const int64_t as_bytes[] = {compiled.dims[0], compiled.dims[2], compiled.dims[3], 3};
  bool fits = key == "}" && compiled.rank == 4 && compiled.dims[1] == 3 && compiled.type == FLOAT;
  std::copy(as_bytes, as_bytes + 4, compiled.dims);
  compiled.type = UINT8;
  compiled.aipp = 1;
  return fits;
}

// Writes SIMULATED_CANN_KERNELS_KB below HOME, where CANN keeps operators that it compiled. False where it cannot.
static bool keep_kernels() {
  string folder = string(getenv("HOME") ? getenv("HOME") : "") + "/atc_data", data(1024, 'k');
  int blocks = atoi(setting("KERNELS_KB", "0").c_str());
  if (!blocks) return true;
  mkdir(folder.c_str(), 0700);
  std::ofstream file(folder + "/kernels." + std::to_string(getpid()));
  while (blocks-- && file << data) file.flush();
  if (!file) std::cerr << "[ERROR] TBE(" << getpid() << "): " << folder << ": " << strerror(errno) << std::endl;
  return bool(file);
}

// In a process that is a Python's the compiler imports te, its own part in Python. Here: where that needs something.
static bool import_te() {
  if (setting("TE_IMPORTS").empty()) return true;
  auto python = [](const char *name) { return dlsym(RTLD_DEFAULT, name); };
  auto ensure = reinterpret_cast<int (*)()>(python("PyGILState_Ensure"));
  if (!ensure) return true;
  int state = ensure();
  bool imported = reinterpret_cast<void *(*)(const char *)>(python("PyImport_ImportModule"))("te");
  if (!imported) reinterpret_cast<void (*)()>(python("PyErr_Print"))();
  reinterpret_cast<void (*)(int)>(python("PyGILState_Release"))(state);
  return imported;
}

struct ModelBufferData { shared_ptr<uint8_t> data; uint64_t length; };
graphStatus aclgrphBuildModel(const Graph &graph, const Options &options, ModelBufferData &result) {
  Event event("build_model");
  std::set<Node *> seen;
  for (const auto &output : graph.content_->outputs) walk(output.node.get(), seen);
  std::map<string, int> count;
  size_t constant_bytes = 0;
  Compiled compiled{};
  memcpy(compiled.magic, MAGIC, sizeof MAGIC);
  strncpy(compiled.folder, version_folder().c_str(), sizeof compiled.folder - 1);
  string ops, dims;
  for (Node *node : seen) {
    count[node->type]++;
    constant_bytes += node->constant_bytes;
    if (node->type != "Data" || node->descs.empty()) continue;
    TensorDesc desc = node->descs.begin()->second;
    compiled.type = desc.GetDataType();
    for (int64_t size : desc.GetShape().GetDims())
      if (compiled.rank < 8) compiled.dims[compiled.rank++] = size;
  }
  for (const auto &one : count)
    ops += (ops.empty() ? "" : ", ") + quoted(one.first) + ": " + std::to_string(one.second);
  for (int i = 0; i < compiled.rank; i++) dims += (i ? ", " : "") + std::to_string(compiled.dims[i]);
  int input_type = compiled.type;  // of the graph itself, as are the dims above
  if (options.count("ge.insertOpFile") && !read_aipp(options.at("ge.insertOpFile"), compiled)) return 1343225857;
  sleep(atoi(setting("COMPILE_S", "0").c_str()));
  if (!import_te() || !keep_kernels()) return 1343225858;
  result.data = shared_ptr<uint8_t>(new uint8_t[sizeof compiled], std::default_delete<uint8_t[]>());
  result.length = sizeof compiled;
  memcpy(result.data.get(), &compiled, sizeof compiled);
  event.raw("options", json(options)).add("batch", compiled.dims[0]).raw("input", "[" + dims + "]");
  event.add("input_type", input_type).add("constant_bytes", constant_bytes).raw("ops", "{" + ops + "}");
  return DONE;
}
}  // namespace ge

// Called by every function that build.sh makes. What only declares operators and their attributes is left out.
extern "C" void simulated_without_body(const char *name) {
  static std::set<string> *seen = new std::set<string>;
  if (!strstr(name, "Regist") && !strstr(name, "Attr") && seen->insert(name).second)
    Event("without_body").add("function", name);
}
