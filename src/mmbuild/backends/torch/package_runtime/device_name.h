// The names of devices that AOTInductor's runtime knows: "(cpu|cuda|xpu|mps)(:([0-9]+))?".
#pragma once

#include <array>
#include <cctype>
#include <functional>
#include <string>

namespace mmbuild {

struct Group {
  std::string text;
  bool matched = false;

  const std::string& str() const {
    return text;
  }
};

// Groups: 0, all; 1, the device; 2, colon and index; 3, the index.
using Groups = std::array<Group, 4>;

inline bool match_device(const std::string& text, Groups& groups) {
  const size_t colon = text.find(':');
  const std::string device = text.substr(0, colon);
  if (device != "cpu" && device != "cuda" && device != "xpu" && device != "mps") {
    return false;
  }
  groups[0] = {text, true};
  groups[1] = {device, true};
  if (colon == std::string::npos) {
    return true;
  }
  const std::string index = text.substr(colon + 1);
  for (const unsigned char digit : index) {
    if (!std::isdigit(digit)) {
      return false;
    }
  }
  groups[2] = {text.substr(colon), true};
  groups[3] = {index, true};
  return !index.empty();
}

} // namespace mmbuild
