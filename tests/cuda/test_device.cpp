// What only a GPU has: streams, graphs, errors of the device, the sort.
#include "cases.hpp"

#include <laplex/cuda/device.hpp>

#include <gtest/gtest.h>

#include <cuda_runtime.h>

#include <cmath>
#include <string>

namespace laplex::cuda::tests {
namespace {

using detail::check;

struct OwnStream {
  Stream stream = nullptr;
  OwnStream() { check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)); }
  ~OwnStream() { cudaStreamDestroy(stream); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
};

TEST(CudaStreams, SmallGraphOfAProductAndItsGradients) {
  for (const std::int64_t n : {500, 9000}) {
    const Case<float> c = make_case<float>(Form::real, Anchors::uniform, n, n, 3);
    const DeviceCase<float> device(c);
    const OwnStream own;
    const Plan<float> plan(device.kernel(), own.stream);
    const OnDevice<float> values(draw_values<float>(n, 1));
    const OnDevice<float> result(static_cast<std::size_t>(n), 9.0F);
    const OnDevice<float> dx(static_cast<std::size_t>(n), 9.0F);
    const OnDevice<double> d_ell(1, 9.0);
    Gradients<float, float> wanted;
    wanted.targets = dx.data();
    wanted.lengthscale = d_ell.data();
    const OnDevice<unsigned char> work(
        plan.workspace_bytes(1, false) + plan.gradient_workspace_bytes(1, false) + 1, 0);
    const Memory lent{work.data(),
                      plan.workspace_bytes(1, false) + plan.gradient_workspace_bytes(1, false) + 1};
    const auto call = [&] {
      plan.apply({values.data(), false, {n, n}}, 1, {result.data(), false, {n, n}}, own.stream,
                 Mode::plain, {}, lent);
      plan.vjp({values.data(), false, {n, n}}, {result.data(), false, {n, n}}, 1, wanted,
               own.stream, {}, lent);
    };
    call();
    check(cudaStreamSynchronize(own.stream));
    const auto want = result.host();
    const auto want_dx = dx.host();

    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(own.stream, cudaStreamCaptureModeGlobal));
    call();
    EXPECT_THROW(Plan<float>(device.kernel(), own.stream), Error);  // it would own memory
    check(cudaStreamEndCapture(own.stream, &graph));
    check(cudaGraphInstantiate(&executable, graph, 0));
    // Replayed on other values in the same memory.
    upload(values.data(), draw_values<float>(n, 2).data(), static_cast<std::size_t>(n) * 4);
    check(cudaGraphLaunch(executable, own.stream));
    check(cudaStreamSynchronize(own.stream));
    EXPECT_NE(result.host(), want);
    upload(values.data(), draw_values<float>(n, 1).data(), static_cast<std::size_t>(n) * 4);
    check(cudaGraphLaunch(executable, own.stream));
    check(cudaStreamSynchronize(own.stream));
    EXPECT_EQ(result.host(), want);
    EXPECT_EQ(dx.host(), want_dx);
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
  }
}

TEST(CudaStreams, SmallGraphOfAnUpdateFollowsTheAnchors) {
  for (const std::int64_t n : {500, 9000}) {
    const Case<float> first = make_case<float>(Form::real, Anchors::uniform, n, n, 3);
    const DeviceCase<float> device(first);
    const OwnStream own;
    Plan<float> plan(device.kernel(), own.stream);
    const auto v = draw_values<float>(n, 1);
    const OnDevice<float> values(v);
    const OnDevice<float> result(static_cast<std::size_t>(n), 9.0F);
    const std::size_t scratch = Plan<float>::scratch_bytes(1, n, n, false);
    const std::size_t workspace = plan.workspace_bytes(1, false) + 1;
    const OnDevice<unsigned char> sorting(scratch, 0);
    const OnDevice<unsigned char> work(workspace, 0);
    const auto capture = [&](Memory lent_to_sort, Memory lent_to_work) {
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t executable = nullptr;
      check(cudaStreamBeginCapture(own.stream, cudaStreamCaptureModeThreadLocal));
      plan.update(device.kernel().targets, device.kernel().sources, own.stream, lent_to_sort);
      plan.apply({values.data(), false, {n, n}}, 1, {result.data(), false, {n, n}}, own.stream,
                 Mode::plain, {}, lent_to_work);
      check(cudaStreamEndCapture(own.stream, &graph));
      check(cudaGraphInstantiate(&executable, graph, 0));
      check(cudaGraphDestroy(graph));
      return executable;
    };
    const auto move_to = [&](const Case<float>& c) {
      upload(const_cast<float*>(device.kernel().targets), c.x.data(), c.x.size() * 4);
      upload(const_cast<float*>(device.kernel().sources), c.y.data(), c.y.size() * 4);
    };
    for (const bool lends : {true, false}) {  // or memory that is the graph's own
      cudaGraphExec_t const graph = capture(lends ? Memory{sorting.data(), scratch} : Memory{},
                                            lends ? Memory{work.data(), workspace} : Memory{});
      for (const Anchors anchors : {Anchors::grid, Anchors::uniform}) {
        const Case<float> c = make_case<float>(Form::real, anchors, n, n, 8);
        move_to(c);
        check(cudaGraphLaunch(graph, own.stream));
        check(cudaStreamSynchronize(own.stream));
        EXPECT_EQ(result.host(), device_product<float>(DeviceCase<float>(c).plan(), v, 1));
      }
      Case<float> bad = first;
      bad.x[7] = HUGE_VALF;
      bad.y[3] = std::nanf("");
      move_to(bad);
      check(cudaGraphLaunch(graph, own.stream));
      check(cudaStreamSynchronize(own.stream));
      for (const float each : result.host())
        ASSERT_TRUE(std::isnan(each));
      check(cudaGraphExecDestroy(graph));
    }
  }
}

TEST(CudaStreams, EdgesOfDeterminismRunToRun) {
  const std::int64_t n = 300000;
  const Case<float> c = make_case<float>(Form::cosine, Anchors::uniform, n, n, 3);
  const DeviceCase<float> device(c);
  const Plan<float> plan = device.plan();
  const auto v = draw_values<float>(n, 1);
  const auto first = device_product<float>(plan, v, 1);
  for (int run = 0; run < 10; ++run)
    ASSERT_EQ(device_product<float>(plan, v, 1), first);
  ASSERT_EQ(device_product<float>(device.plan(), v, 1), first);
}

TEST(CudaErrors, SmallOnesHaveCudasMessage) {
  try {
    check(cudaErrorInvalidValue);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::device);
    EXPECT_EQ(std::string(error.what()), "CUDA: invalid argument (cudaErrorInvalidValue)");
  }
  EXPECT_THROW(check(cudaErrorMemoryAllocation), Error);
  EXPECT_GE(runtime_version(), 12000);
}

}  // namespace
}  // namespace laplex::cuda::tests
