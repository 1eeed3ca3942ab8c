// The pooling problem in a request's first integers, as simt_testing.pool2d_ints writes it.
#pragma once

#include "core/window.h"
#include "simt/driver.h"

namespace simt {

inline fastconv::Pool2d pool2d_of(const Request& r) {
  const auto window = [&](size_t at) {
    const int64_t* v = &r.ints.at(at);
    return fastconv::Window{v[0], v[1], v[2], v[3], v[4], v[5]};
  };
  return {r.ints.at(0), r.ints.at(1), window(3), window(9), r.ints.at(2) != 0};
}

}  // namespace simt
