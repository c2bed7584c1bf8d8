/* What message functions and connection functions have in common; for this SDK's own files. */
#ifndef WEIR_MESSAGES_H
#define WEIR_MESSAGES_H

#include "attach.h"
#include "values.h"

#include <weir/message.h>

/* A head, and a piece, at this offset of the window. */
weir_head weir_head_at(uint32_t offset);
weir_piece weir_piece_at(uint32_t offset, uint32_t length, bool last);
/* After an event: hands counters over when it is time to. */
void weir_after_event(void);
/* An outcome as the host reads it. */
uint64_t weir_of_head(weir_outcome outcome, const weir_head *head);
uint64_t weir_of_piece(weir_outcome outcome, const weir_piece *piece);
/* The event `resume`, which all have. */
uint64_t weir_resumed(uint32_t exchange, uint32_t token, uint32_t status, uint32_t head, uint32_t body, uint32_t length);

#endif
