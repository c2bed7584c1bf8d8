/* The exports of world `packet-function`, and what only functions for packets ask of the host. */

#include "../bindings/packet_function.h"
#include "attach.h"
#include "values.h"

#include <weir/packet.h>

static weir_burst burst;

__attribute__((weak)) void weir_tick(uint64_t now) { (void)now; }

bool exports_weir_net_packet_configure(exports_weir_net_packet_setup_t *told, packet_function_string_t *why) {
    static weir_error error;
    weir_setup setup = WEIR_SETUP_OF(told);
    bool done = weir_attach(told->window_bytes, told->window_align, told->state_align, &setup, &error);
    burst.window = weir_window;
    done = done && weir_begin(&setup, (const char *)told->config.ptr, told->config.len, &error);
    exports_weir_net_packet_setup_free(told);
    if (!done) {
        packet_function_string_dup(why, error.text);
        return false;
    }
    weir_after_configure();
    return true;
}

void exports_weir_net_packet_process(uint32_t count) {
    burst.count = count;
    weir_process(&burst);
    weir_after_burst(weir_burst_now(&burst));
}

void exports_weir_net_packet_tick(uint64_t now) {
    if (weir_before_tick(now)) weir_tick(now);
    weir_after_tick(now);
}

/* Bytes in front of a packet in its room. */
static uint32_t headroom(const weir_packet *packet) {
    return (uint32_t)(packet->data - weir_window) & (weir_room_bytes - 1);
}

static void write_descriptor(weir_burst *of, const weir_packet *packet) {
    uint32_t descriptor[2] = {(uint32_t)(packet->data - of->window), packet->length};
    memcpy(of->window + 8 * packet->index, descriptor, 8);
}

bool weir_packet_prepend(weir_burst *of, weir_packet *packet, uint32_t bytes) {
    if (bytes > headroom(packet)) return false;
    packet->data -= bytes;
    packet->length += bytes;
    write_descriptor(of, packet);
    return true;
}

bool weir_packet_strip(weir_burst *of, weir_packet *packet, uint32_t bytes) {
    /* A descriptor's offset must itself lie within the room. */
    if (bytes > packet->length || headroom(packet) + bytes >= weir_room_bytes) return false;
    packet->data += bytes;
    packet->length -= bytes;
    write_descriptor(of, packet);
    return true;
}

bool weir_packet_resize(weir_burst *of, weir_packet *packet, uint32_t length) {
    if (length > weir_room_bytes - headroom(packet)) return false;
    packet->length = length;
    write_descriptor(of, packet);
    return true;
}

weir_buffer weir_allocate(uint32_t length) {
    uint32_t answer[2] = {0, 0};
    weir_import_allocate(length, answer);
    bool there = (answer[0] & 0xff) != 0;
    weir_buffer buffer = {there ? weir_window + answer[1] : NULL, there ? length : 0};
    return buffer;
}

static weir_refusal refusal(const uint8_t answer[2]) { return answer[0] == 0 ? WEIR_DONE : (weir_refusal)answer[1]; }

weir_refusal weir_send(weir_buffer buffer, weir_verdict verdict) {
    uint8_t answer[2] = {0, 0};
    weir_import_send((uint32_t)(buffer.data - weir_window), buffer.length, verdict, answer);
    return refusal(answer);
}

/* With this verdict nothing can be sent, and the host says first whose the buffer is. */
bool weir_owns(weir_buffer buffer) { return weir_send(buffer, WEIR_HOLD) != WEIR_NOT_OWNED; }

weir_refusal weir_send_copy(const uint8_t *bytes, uint32_t length, weir_verdict verdict) {
    uint8_t answer[2] = {0, 0};
    weir_import_send_copy(bytes, length, verdict, answer);
    return refusal(answer);
}
