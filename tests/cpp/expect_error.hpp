/// That a call ends in an Error, of which code and with which words.
#pragma once

#include <laplex/error.hpp>

#include <gtest/gtest.h>

#include <string>

namespace laplex::tests {

template <class F>
void expect_error(const F& call, ErrorCode code, const std::string& part) {
  try {
    call();
    FAIL() << "no error; expected one with: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

}  // namespace laplex::tests
