// A device's code that is opened at run time, so that a machine without the device needs nothing of it.
#pragma once

#include "noema/backend.h"

namespace noema {

/// Opens noema-<module>.so once and asks it for a device. Looked for: NOEMA_<MODULE>_MODULE (a path; '-' becomes '_'),
/// then the folder of the binary that this code is in.
Status open_module(const char* module, int device, const Backend** out);

}  // namespace noema
