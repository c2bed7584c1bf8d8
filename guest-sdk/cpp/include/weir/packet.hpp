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
#include <optional>
#include <span>
#include <string_view>

#include <weir/checksum.h>
#include <weir/net.h>
#include <weir/packet.h>

namespace weir {

// A decision about a packet.
class Verdict {
public:
    // Continue with the next function, or leave by the chain's output. What every packet has before.
    static constexpr Verdict next() { return Verdict(0); }
    // Free it; counted under this reason, below 2^24.
    static constexpr Verdict drop(std::uint32_t reason) { return Verdict(1 | reason << 8); }
    // Leave by the port it came in by.
    static constexpr Verdict reply() { return Verdict(2); }
    // Leave by this port.
    static constexpr Verdict forward(std::uint32_t port) { return Verdict(3 | port << 8); }
    // Give it to the kernel's stack.
    static constexpr Verdict to_kernel() { return Verdict(4); }
    // Continue with this function, which must come later in the packet's direction.
    static constexpr Verdict jump(std::uint32_t function) { return Verdict(5 | function << 8); }
    // Keep it: it can be sent by `weir_send` when its burst is over.
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

// How much a log line matters.
enum class Level { trace = WEIR_TRACE, debug = WEIR_DEBUG, info = WEIR_INFO, warn = WEIR_WARN, error = WEIR_ERROR };

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

// A value of the configuration; lists and objects are ranges of `Json::Member`.
class Json {
public:
    explicit Json(weir_json value) : value_(value) {}

    struct Member {
        // Empty in lists.
        std::string_view key;
        weir_json raw;
        Json value() const { return Json(raw); }
    };

    class Iterator {
    public:
        explicit Iterator(weir_json_member at) : at_(at) {}
        Member operator*() const { return {{at_.key.bytes, at_.key.length}, at_.value}; }
        Iterator &operator++() {
            at_ = weir_json_following(at_);
            return *this;
        }
        bool operator!=(std::nullptr_t) const { return at_.there; }

    private:
        weir_json_member at_;
    };

    Iterator begin() const { return Iterator(weir_json_first(value_)); }
    std::nullptr_t end() const { return nullptr; }
    weir_json_kind kind() const { return weir_json_kind_of(value_); }
    // Members or elements.
    std::uint32_t size() const { return weir_json_count(value_); }
    // A whole number from `least` to `most`.
    std::optional<std::int64_t> integer(std::int64_t least, std::int64_t most) const {
        std::int64_t number;
        return weir_json_integer(value_, least, most, &number) ? std::optional(number) : std::nullopt;
    }
    // A string as it is written: escapes are not replaced.
    std::optional<std::string_view> string() const {
        weir_text text;
        return weir_json_string(value_, &text) ? std::optional(std::string_view(text.bytes, text.length)) : std::nullopt;
    }

private:
    weir_json value_;
};

// A counter, shown in `/metrics`. The name, 1 to 64 of `a-z0-9_`, must stay where it is.
class Counter {
public:
    explicit Counter(const char *name) : place_(weir_counter_named(name)) {}
    // A few instructions, no call.
    void add(std::uint64_t delta) const { weir_counter_add(place_, delta); }

private:
    weir_counter place_;
};

// A gauge; as `Counter`.
class Gauge {
public:
    explicit Gauge(const char *name) : place_(weir_gauge_named(name)) {}
    void set(double value) const { weir_gauge_set(place_, value); }

private:
    weir_gauge place_;
};

// Why a configuration is refused.
class Error {
public:
    explicit Error(weir_error &error) : error_(error) {}
    // Says why, as by printf, beginning with the key. Always false.
    template <class... Arguments> bool refuse(const char *format, Arguments... arguments) {
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wformat-nonliteral"
#pragma clang diagnostic ignored "-Wformat-security"
        return weir_refuse(&error_, format, arguments...);
#pragma clang diagnostic pop
    }

private:
    weir_error &error_;
};

// What a function is told when it is configured.
class Setup {
public:
    explicit Setup(const weir_setup &setup) : setup_(setup) {}
    // A random number for hash seeds.
    std::uint64_t seed() const { return setup_.seed; }
    // The state region, empty without one. It outlives the instance.
    std::span<std::uint8_t> state() const { return {setup_.state, setup_.state_bytes}; }
    // True when it holds what an earlier instance left there; then it can be read, but not written, until `configure` returns.
    bool state_kept() const { return setup_.state_kept; }
    // Number of the port of this name.
    std::optional<std::uint32_t> port(std::string_view name) const {
        std::int32_t number = weir_port_named(&setup_, {name.data(), name.size()});
        return number < 0 ? std::nullopt : std::optional(static_cast<std::uint32_t>(number));
    }
    // All of it, as the C SDK has it.
    const weir_setup &raw() const { return setup_; }

private:
    const weir_setup &setup_;
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
