// The functions of AOTInductor's C interface (torch/csrc/inductor/aoti_runtime/interface.h) that mmbuild calls, for a
// model without constants. A "container" is the model itself.
#include <torch/csrc/inductor/aoti_runtime/interface.h>
#include <torch/csrc/inductor/aoti_runtime/model.h>

#include <exception>
#include <iostream>
#include <memory>
#include <vector>

namespace {

using torch::aot_inductor::AOTInductorModel;
using torch::aot_inductor::ConstantHandle;
using torch::aot_inductor::ConstantMap;

// Operators that write to a given output refuse inputs that require gradients.
class WithoutGradients {
 public:
  WithoutGradients() : before_(aoti_torch_grad_mode_is_enabled()) {
    aoti_torch_grad_mode_set_enabled(false);
  }
  ~WithoutGradients() {
    aoti_torch_grad_mode_set_enabled(before_);
  }
  WithoutGradients(const WithoutGradients&) = delete;
  WithoutGradients& operator=(const WithoutGradients&) = delete;

 private:
  bool before_;
};

template <typename Function>
AOTIRuntimeError guarded(const Function& function) {
  try {
    function();
    return AOTI_RUNTIME_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << '\n';
  } catch (...) {
    std::cerr << "Error of an unknown kind\n";
  }
  return AOTI_RUNTIME_FAILURE;
}

AOTInductorModel* model_of(AOTInductorModelContainerHandle handle) {
  return reinterpret_cast<AOTInductorModel*>(handle);
}

} // namespace

extern "C" {

AOTIRuntimeError AOTInductorModelContainerCreateWithDevice(
    AOTInductorModelContainerHandle* container_handle,
    size_t /* num_models */,
    const char* device_str,
    const char* cubin_dir) {
  return guarded([&] {
    auto model = AOTInductorModel::Create(
        std::make_shared<ConstantMap>(),
        std::make_shared<std::vector<ConstantHandle>>(),
        device_str,
        cubin_dir);
    *container_handle = reinterpret_cast<AOTInductorModelContainerHandle>(model.release());
  });
}

AOTIRuntimeError AOTInductorModelContainerDelete(AOTInductorModelContainerHandle container_handle) {
  return guarded([&] { delete model_of(container_handle); });
}

AOTIRuntimeError AOTInductorModelContainerGetNumOutputs(
    AOTInductorModelContainerHandle container_handle,
    size_t* ret_num_outputs) {
  return guarded([&] { *ret_num_outputs = model_of(container_handle)->num_outputs(); });
}

AOTIRuntimeError AOTInductorModelContainerRunSingleThreaded(
    AOTInductorModelContainerHandle container_handle,
    AtenTensorHandle* input_handles,
    size_t num_inputs,
    AtenTensorHandle* output_handles,
    size_t num_outputs,
    AOTInductorStreamHandle stream_handle,
    AOTIProxyExecutorHandle proxy_executor_handle) {
  return guarded([&] {
    auto* model = model_of(container_handle);
    if (num_inputs != model->num_inputs() || num_outputs != model->num_outputs()) {
      throw std::runtime_error("the package has another number of inputs or outputs");
    }
    const WithoutGradients guard;
    auto stream = reinterpret_cast<torch::aot_inductor::DeviceStreamType>(stream_handle);
    model->run_single_threaded(input_handles, output_handles, stream, proxy_executor_handle);
  });
}

} // extern "C"
