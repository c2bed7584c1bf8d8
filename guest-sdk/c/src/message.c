/* The exports of world `message-function`. */

#include "../bindings/message_function.h"
#include "messages.h"

bool exports_weir_net_message_configure(exports_weir_net_message_setup_t *told, uint32_t *wants, message_function_string_t *why) {
    static weir_error error;
    weir_setup setup = WEIR_SETUP_OF(told);
    bool done = weir_attach(told->window_bytes, told->window_align, told->state_align, &setup, &error);
    done = done && weir_begin(&setup, (const char *)told->config.ptr, told->config.len, &error);
    exports_weir_net_message_setup_free(told);
    if (!done) {
        message_function_string_dup(why, error.text);
        return false;
    }
    *wants = weir_wants();
    weir_after_configure();
    return true;
}

uint64_t exports_weir_net_message_request_head(uint32_t exchange, uint32_t at) {
    weir_head head = weir_head_at(at);
    weir_outcome outcome = weir_request_head(exchange, &head);
    return weir_of_head(outcome, &head);
}

uint64_t exports_weir_net_message_request_body(uint32_t exchange, uint32_t offset, uint32_t length, bool last) {
    weir_piece piece = weir_piece_at(offset, length, last);
    weir_outcome outcome = weir_request_body(exchange, &piece);
    return weir_of_piece(outcome, &piece);
}

uint64_t exports_weir_net_message_response_head(uint32_t exchange, uint32_t at) {
    weir_head head = weir_head_at(at);
    weir_outcome outcome = weir_response_head(exchange, &head);
    return weir_of_head(outcome, &head);
}

uint64_t exports_weir_net_message_response_body(uint32_t exchange, uint32_t offset, uint32_t length, bool last) {
    weir_piece piece = weir_piece_at(offset, length, last);
    weir_outcome outcome = weir_response_body(exchange, &piece);
    return weir_of_piece(outcome, &piece);
}

uint64_t exports_weir_net_message_resume(uint32_t exchange, uint32_t token, uint32_t status, uint32_t head, uint32_t body, uint32_t length) {
    return weir_resumed(exchange, token, status, head, body, length);
}

void exports_weir_net_message_ended(uint32_t exchange, uint32_t how, uint32_t upstream, uint64_t nanoseconds) {
    weir_ended(exchange, how, upstream, nanoseconds);
    weir_after_event();
}

void exports_weir_net_message_tick(uint64_t now) {
    if (weir_before_tick(now)) weir_tick(now);
    weir_after_tick(now);
}
