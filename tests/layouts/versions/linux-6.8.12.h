/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * v6.8.y: commit 3ee34eabac2a ("lib/stackdepot: fix first entry having a 0-handle") (in v6.9) is in,
 * but pool_index is not yet called pool_index_plus_1.
 */
#ifdef FEATURES
#define UTS_RELEASE "6.8.12"
#define DEPOT_INDEX_PLUS_1
#endif
#include "linux-6.8.h"
