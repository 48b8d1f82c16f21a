/// @file
/// The version of zerospan. CMake reads it from here.
#pragma once

#define ZEROSPAN_VERSION_MAJOR 0
#define ZEROSPAN_VERSION_MINOR 1
#define ZEROSPAN_VERSION_PATCH 0
