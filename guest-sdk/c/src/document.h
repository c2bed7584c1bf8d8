/* The configuration while it is read; for this SDK's own files. */
#ifndef WEIR_DOCUMENT_H
#define WEIR_DOCUMENT_H

#include <weir/json.h>

/* Parses JSON; the root is token 0. False without memory, or if it is no JSON. `weir_document_free` frees what it took. */
bool weir_document_parse(const char *text, size_t length, weir_json *root);
void weir_document_free(weir_json root);

#endif
