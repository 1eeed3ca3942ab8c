// What a program that runs one op's kernels needs: a request from standard input, an answer back.
//
// Request: a line "entry dtype", a line of integers, a line of real numbers, then for each buffer a
// line "i|o bytes offset" and, for inputs, its bytes. Each line of numbers begins with their count,
// and so does the list of buffers. Output buffers begin as 0xff bytes, NaN in every floating type,
// so that an element that no thread wrote shows. `offset` shifts a buffer off its alignment. The
// answer is the outputs' bytes, one after another.
//
// An entry runs under all three thread orders; results that differ in one bit are a fault.
#pragma once

#include <iostream>
#include <string>
#include <vector>

#include "core/numeric.h"
#include "simt/runtime.h"

namespace simt {

struct Buffer {
  bool is_output;
  size_t bytes, offset;
  std::unique_ptr<char[]> memory;  // exactly as large as it must be: a byte more is a fault
  char* data() const { return memory.get() + offset; }
};

struct Request {
  std::string entry, dtype;
  std::vector<int64_t> ints;
  std::vector<double> reals;
  std::vector<Buffer> buffers;

  template <typename T>
  T* pointer(size_t i) const {
    return buffers.at(i).bytes ? reinterpret_cast<T*>(buffers.at(i).data()) : nullptr;
  }
};

inline Request read_request() {
  Request r;
  size_t count = 0;
  std::cin >> r.entry >> r.dtype >> count;
  r.ints.resize(count);
  for (auto& value : r.ints) std::cin >> value;
  std::cin >> count;
  r.reals.resize(count);
  for (auto& value : r.reals) std::cin >> value;
  std::cin >> count;
  for (size_t i = 0; i < count; ++i) {
    char kind = 0;
    Buffer b{};
    std::cin >> kind >> b.bytes >> b.offset;
    std::cin.get();  // the end of the line
    b.is_output = kind == 'o';
    b.memory.reset(new char[b.bytes + b.offset]);
    if (b.is_output) {
      std::memset(b.data(), 0xff, b.bytes);
    } else {
      std::cin.read(b.data(), std::streamsize(b.bytes));
    }
    r.buffers.push_back(std::move(b));
  }
  if (!std::cin) fault("the request is cut off");
  return r;
}

// body(scalar) with the C++ type of the request's dtype as the type of `scalar`.
template <class F>
cudaError_t with_dtype(const std::string& dtype, const F& body) {
  if (dtype == "float32") return body(float{});
  if (dtype == "float64") return body(double{});
  if (dtype == "float16") return body(fastconv::half{});
  if (dtype == "bfloat16") return body(fastconv::bfloat16{});
  fault("no dtype " + dtype);
}

// main() of a driver: body(request) launches what the request's entry names.
template <class F>
int serve(const F& body) {
  const Request request = read_request();
  std::vector<std::string> first;
  for (Order order : {Order::kForward, Order::kReverse, Order::kShuffled}) {
    machine.order = order;
    for (const Buffer& b : request.buffers) {
      if (b.is_output) std::memset(b.data(), 0xff, b.bytes);
    }
    const cudaError_t error = body(request);
    if (error != cudaSuccess) {
      std::cerr << "simt: launch failed with error " << int(error) << "\n";
      return 4;
    }
    std::vector<std::string> results;
    for (const Buffer& b : request.buffers) {
      if (b.is_output) results.emplace_back(b.data(), b.bytes);
    }
    if (first.empty()) first = results;
    if (results != first) {
      std::cerr << "simt: the result depends on the order of the threads\n";
      return 5;
    }
  }
  for (const auto& result : first) std::cout.write(result.data(), std::streamsize(result.size()));
  return 0;
}

}  // namespace simt
