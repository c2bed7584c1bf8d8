// What functions of all worlds have in C++: configuration, counters, log levels. weir/packet.hpp and weir/message.hpp include it.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <weir/host.h>
#include <weir/json.h>

namespace weir {

// How much a log line matters.
enum class Level { trace = WEIR_TRACE, debug = WEIR_DEBUG, info = WEIR_INFO, warn = WEIR_WARN, error = WEIR_ERROR };

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
    // A number, which may have a fraction; nothing if it is something else.
    std::optional<double> number() const {
        double read;
        return weir_json_number(value_, &read) ? std::optional(read) : std::nullopt;
    }
    // A copy of a string with its escapes replaced; nothing if it is something else, or has a character 0.
    std::optional<std::string> copy() const {
        weir_text text;
        if (!weir_json_string(value_, &text)) return std::nullopt;
        // It becomes no longer.
        std::string copy(text.length + 1, 0);
        if (!weir_json_copy(value_, copy.data(), copy.size())) return std::nullopt;
        copy.resize(std::strlen(copy.data()));
        return copy;
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
