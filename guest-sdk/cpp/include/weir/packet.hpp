// Functions for packets in C++: the C SDK with spans, enum classes and ranges. Costs nothing beyond it. C++20, without exceptions
// and run-time types.
//
//     struct Function {
//         bool configure(const weir::Setup &setup, weir::Json config, weir::Error &error);
//         void process(weir::Burst &burst);
//     };
//     WEIR_EXPORT(Function)
//
// WEIR_EXPORT_TICK(Function) also exports `void tick(std::uint64_t now)`.
#pragma once

#include <cstdint>
#include <span>

#include <weir/checksum.h>
#include <weir/host.hpp>
#include <weir/net.h>
#include <weir/packet.h>

namespace weir {

// A decision about a packet.
class Verdict {
public:
    // Continue with the next function, or leave by the chain's output. What every packet has before.
    static constexpr Verdict next() { return Verdict(0); }
    // Free it; counted under this reason, below 2^24. Those from 63 on are counted as 63, together.
    static constexpr Verdict drop(std::uint32_t reason) { return Verdict(1 | reason << 8); }
    // Leave by the port it came in by.
    static constexpr Verdict reply() { return Verdict(2); }
    // Leave by this port.
    static constexpr Verdict forward(std::uint32_t port) { return Verdict(3 | port << 8); }
    // Give it to the kernel's stack.
    static constexpr Verdict to_kernel() { return Verdict(4); }
    // Continue with this function, which must come later in the packet's direction.
    static constexpr Verdict jump(std::uint32_t function) { return Verdict(5 | function << 8); }
    // Keep it: it can be sent by `weir_send` when its burst is over, if `weir_owns` says that the function got it.
    static constexpr Verdict hold() { return Verdict(6); }
    // As `next`, and a copy leaves by this port.
    static constexpr Verdict clone(std::uint32_t port) { return Verdict(7 | port << 8); }
    // The packet and its flow go to the function's n-th target; 0 is the kernel's stack.
    static constexpr Verdict move(std::uint32_t target) { return Verdict(8 | target << 8); }
    // The same for all further packets of the flow in this direction. Of next, drop, reply, forward and to_kernel.
    constexpr Verdict for_flow() const { return Verdict(word_ | 0x80); }
    // As it lies in the window.
    constexpr weir_verdict word() const { return word_; }

private:
    constexpr explicit Verdict(weir_verdict word) : word_(word) {}
    weir_verdict word_;
};

// What a frame turned out to be.
enum class Frame { not_ip = WEIR_NOT_IP, cut_short = WEIR_CUT_SHORT, ipv4 = WEIR_IPV4, ipv6 = WEIR_IPV6 };

// Where the headers of an IP packet lie, and what they say.
using Headers = weir_headers;

// One packet of a burst. Writing to it takes `access = "read-write"` in function.toml; without, a store is a fault.
class Packet {
public:
    Packet(weir_burst &burst, std::uint32_t index) : burst_(burst), packet_(weir_burst_packet(&burst, index)) {}

    // Its bytes, from the link layer's header on.
    std::span<std::uint8_t> data() const { return {packet_.data, packet_.length}; }
    // The same, one by one: a span that is handed to a function goes through memory on its way.
    std::uint8_t *start() const { return packet_.data; }
    std::uint32_t length() const { return packet_.length; }
    // Number of the port it came in by.
    std::uint16_t port() const { return weir_packet_port(&burst_, packet_.index); }
    // True when it travels from the chain's `to` to its `from`.
    bool reverse() const { return weir_packet_reverse(&burst_, packet_.index); }
    // True when a function made it.
    bool made() const { return weir_packet_made(&burst_, packet_.index); }
    // The host's symmetric flow hash of the packet as it arrived, or 0.
    std::uint32_t hash() const { return weir_packet_hash(&burst_, packet_.index); }
    // Decides about it; the last decision counts.
    void set_verdict(Verdict verdict) { weir_set_verdict(&burst_, packet_.index, verdict.word()); }
    // Puts bytes in front of it, to be filled. False if there is no room.
    bool prepend(std::uint32_t bytes) { return weir_packet_prepend(&burst_, &packet_, bytes); }
    // Takes bytes away from its front. False if it has not so many.
    bool strip(std::uint32_t bytes) { return weir_packet_strip(&burst_, &packet_, bytes); }
    // Moves its end. False if there is no room.
    bool resize(std::uint32_t length) { return weir_packet_resize(&burst_, &packet_, length); }
    // As a buffer, to be sent when the burst is over; its verdict must be `hold`.
    weir_buffer buffer() const { return {packet_.data, packet_.length}; }

private:
    weir_burst &burst_;
    weir_packet packet_;
};

// Reads bytes as a frame, in one pass; the headers are filled in for ipv4 and ipv6.
inline Frame parse(const std::uint8_t *start, std::uint32_t length, Headers &headers) {
    return static_cast<Frame>(weir_parse(start, length, &headers));
}

// Reads a packet's frame, as above.
inline Frame parse(const Packet &packet, Headers &headers) { return parse(packet.start(), packet.length(), headers); }

// The packets that came at once: a range of `Packet`.
class Burst {
public:
    explicit Burst(weir_burst &burst) : burst_(burst) {}

    class Iterator {
    public:
        Iterator(weir_burst &burst, std::uint32_t index) : burst_(&burst), index_(index) {}
        Packet operator*() const { return {*burst_, index_}; }
        Iterator &operator++() {
            ++index_;
            return *this;
        }
        bool operator!=(const Iterator &other) const { return index_ != other.index_; }

    private:
        weir_burst *burst_;
        std::uint32_t index_;
    };

    Iterator begin() const { return {burst_, 0}; }
    Iterator end() const { return {burst_, burst_.count}; }
    // Packets.
    std::uint32_t size() const { return burst_.count; }
    // The packet at a place below `size()`.
    Packet operator[](std::uint32_t index) const { return {burst_, index}; }
    // The burst's time: monotonic nanoseconds; in a replay the capture's own.
    std::uint64_t now() const { return weir_burst_now(&burst_); }
    // The same moment in nanoseconds since 1970, or 0 if the host does not know.
    std::uint64_t wall() const { return weir_burst_wall(&burst_); }

private:
    weir_burst &burst_;
};

} // namespace weir

// Exports a type as the function of this module. There is one of it; its constructor runs before `configure`.
#define WEIR_EXPORT(Type)                                                                               \
    static Type weir_function;                                                                          \
    extern "C" bool weir_configure(const weir_setup *setup, weir_json config, weir_error *error) {      \
        weir::Error why(*error);                                                                        \
        return weir_function.configure(weir::Setup(*setup), weir::Json(config), why);                   \
    }                                                                                                   \
    extern "C" void weir_process(weir_burst *burst) {                                                   \
        weir::Burst packets(*burst);                                                                    \
        weir_function.process(packets);                                                                 \
    }

// The same, of a type that has `tick`.
#define WEIR_EXPORT_TICK(Type)                                                                          \
    WEIR_EXPORT(Type)                                                                                   \
    extern "C" void weir_tick(uint64_t now) { weir_function.tick(now); }
