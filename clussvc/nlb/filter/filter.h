/* What the files of the packet filter show each other and the module. */

#ifndef CLUSSVC_NLB_FILTER_TYPES_H
#define CLUSSVC_NLB_FILTER_TYPES_H

#include <Python.h>
#include <stdbool.h>

#include "nlb_structs.h"

/* Adds NlbTable, NlbFlows, NlbProgram and their constants to the module; -1 with an exception set. */
int nlb_add_types(PyObject *module);

/* A new reference to the type NlbProgram, or NULL with an exception set. */
PyObject *nlb_program_type(void);

/* The table of an object if it is an NlbTable; NULL with an exception set. */
const struct nlb_table *nlb_table_of(PyObject *object);

/* A flow as Python sees it: (which, key's addresses and ports, protocol, state, seen_ticks); NULL with an exception. */
PyObject *nlb_flow_as_tuple(uint32_t which, const struct nlb_key *key, const struct nlb_flow *flow);

/* Marks the bucket that a flow has in a table, in an array of NLB_SLOTS x NLB_BUCKETS_MAX counters. */
void nlb_count_flow(const struct nlb_table *table, uint32_t which, const struct nlb_key *key,
                    const struct nlb_flow *flow, uint64_t now_ticks, uint32_t *counts);

/* The key of the flow that Python names; false with an exception set. */
bool nlb_read_key(PyObject *client, unsigned client_port, PyObject *server, unsigned server_port, unsigned protocol,
                  struct nlb_key *key);

/* A flow and its key, out of the kernel's memory. */
struct nlb_entry {
    struct nlb_key key;
    struct nlb_flow flow;
};

/* The flow in a place of a set of the kernel's; false if there is none, or if it is being written to. */
bool nlb_read_place(const struct nlb_table *table, const struct nlb_set *set, uint32_t way, struct nlb_entry *entry);

/* What one of so many sets says of a flow; false if nothing. */
bool nlb_find_in_sets(const struct nlb_table *table, const struct nlb_set *sets, uint32_t count,
                      const struct nlb_key *key, struct nlb_flow *flow);

/* Forgets a flow in the one of so many sets where it would be. */
void nlb_forget_in_sets(const struct nlb_table *table, struct nlb_set *sets, uint32_t count, const struct nlb_key *key);

/* {(slot, bucket): count}, of those that are not 0. */
PyObject *nlb_counts_as_dict(const uint32_t *counts);

#endif
