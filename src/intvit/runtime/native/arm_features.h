// What an Arm processor has, asked of Linux or macOS.
#pragma once
#include <cstddef>
#if defined(__APPLE__)
#include <sys/sysctl.h>
inline bool arm_feature(const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value == 1;
}
inline bool arm_has_dot_products() { return arm_feature("hw.optional.arm.FEAT_DotProd"); }
inline bool arm_has_matrix_products() { return arm_feature("hw.optional.arm.FEAT_I8MM"); }
#else
#include <sys/auxv.h>
inline bool arm_has_dot_products() { return getauxval(AT_HWCAP) >> 20 & 1; }     // HWCAP_ASIMDDP
inline bool arm_has_matrix_products() { return getauxval(AT_HWCAP2) >> 13 & 1; }  // HWCAP2_I8MM
#endif
