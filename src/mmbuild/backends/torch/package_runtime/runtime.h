// What every package includes, compiled once: AOTInductor's runtime, without std::regex.
//
// The runtime uses std::regex for the name of a device only, and g++ takes 2.5 s for it in every package.
#pragma once

#include <regex>

#include "device_name.h"

// These follow "std::" in the runtime.
#define regex string
#define smatch array<mmbuild::Group, 4>
#define regex_match(text, groups, pattern) invoke(mmbuild::match_device, text, groups)

#ifdef USE_CUDA
#include <torch/csrc/inductor/aoti_include/cuda.h>
#else
#include <torch/csrc/inductor/aoti_include/cpu.h>
#endif

#undef regex
#undef smatch
#undef regex_match
