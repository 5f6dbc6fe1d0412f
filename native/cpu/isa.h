// Which instruction sets this machine has, and which one is in force.
#pragma once

#include "cpu.h"

namespace noema::cpu {

const char* const* isa_list();
Status force_isa(const char* name);
const char* isa_name();

}  // namespace noema::cpu
