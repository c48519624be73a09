// What the parts of the simulator share: its settings, its records, and the form of a "compiled" model.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

// SIMULATED_CANN_<name>, or `otherwise`.
inline std::string setting(const char *name, const std::string &otherwise = "") {
  const char *value = getenv(("SIMULATED_CANN_" + std::string(name)).c_str());
  return value && *value ? value : otherwise;
}

inline double now_ms() {  // since the machine started, in every process alike
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline std::string quoted(const std::string &text) {  // as a JSON string
  std::string result = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c < ' ' ? ' ' : char(c);
  }
  return result + '"';
}

// One line of JSON in the file that SIMULATED_CANN_RECORDS names, written when the object goes away.
class Event {
 public:
  explicit Event(const char *name)
      : line_("{\"event\": " + quoted(name) + ", \"pid\": " + std::to_string(getpid()) +
              ", \"at_ms\": " + std::to_string(now_ms())) {}
  Event &raw(const char *key, const std::string &json) { line_ += ", " + quoted(key) + ": " + json; return *this; }
  Event &add(const char *key, const std::string &text) { return raw(key, quoted(text)); }
  Event &add(const char *key, int64_t number) { return raw(key, std::to_string(number)); }
  Event &add_ms(const char *key, double ms) { return raw(key, std::to_string(ms)); }
  ~Event() {
    int file = open(setting("RECORDS", "/dev/null").c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    line_ += "}\n";  // one write: the lines of several processes do not mix
    if (file < 0 || write(file, line_.data(), line_.size()) < 0) perror("SIMULATED_CANN_RECORDS");
    if (file >= 0) close(file);
  }

 private:
  std::string line_;
};

// What the graph compiler hands back and aclmdlLoadFromMem takes: plain data, since Lite sends it between processes.
struct Compiled {
  char magic[16];
  int32_t type, rank;  // of the one input
  int64_t dims[8];
  char folder[2048];  // where the MindIRs of this version lie
  int32_t aipp;       // pixels come as bytes, and these make floats of them, by channel
  float mean[3], min[3], var_reci[3];
};
constexpr char MAGIC[16] = "simulated CANN";

// SIMULATED_CANN_MINDIR, or the version that this process serves, by the command line of a worker of MindSpore Serving.
inline std::string version_folder() {
  std::ifstream file("/proc/self/cmdline");
  std::string line((std::istreambuf_iterator<char>(file)), {}), path = setting("MINDIR");
  if (!path.empty()) return path;
  for (std::string name : {"--servable_directory=", "--servable_name=", "--version_number="}) {
    size_t at = line.find(name);
    if (at == std::string::npos) return "";
    path += (path.empty() ? "" : "/") + std::string(line.c_str() + at + name.size());
  }
  return path;
}
