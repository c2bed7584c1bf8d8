#include "rules.hpp"

#include <charconv>
#include <utility>

namespace {

using std::optional;
using std::string_view;

optional<bool> read_action(weir::Json value) {
    auto text = value.string();
    if (text == "allow") return true;
    if (text == "deny") return false;
    return {};
}

optional<std::int64_t> read_protocol(weir::Json value) {
    static constexpr std::pair<string_view, int> known[] = {{"icmp", 1}, {"tcp", 6}, {"udp", 17}, {"icmpv6", 58}};
    auto text = value.string();
    if (!text) return value.integer(0, 255);
    for (auto [name, number] : known) {
        if (*text == name) return number;
    }
    return {};
}

optional<std::uint16_t> read_port(string_view text) {
    std::uint16_t port;
    auto [end, wrong] = std::from_chars(text.data(), text.data() + text.size(), port);
    return wrong == std::errc() && end == text.data() + text.size() ? optional(port) : std::nullopt;
}

// The first port, and how many follow.
optional<std::pair<std::uint32_t, std::uint32_t>> read_ports(weir::Json value) {
    if (auto number = value.integer(0, 65535)) return std::pair(static_cast<std::uint32_t>(*number), 0u);
    auto text = value.string();
    if (!text) return {};
    auto dash = text->find('-');
    auto first = read_port(text->substr(0, dash));
    auto last = dash == string_view::npos ? first : read_port(text->substr(dash + 1));
    if (!first || !last || *last < *first) return {};
    return std::pair<std::uint32_t, std::uint32_t>(*first, *last - *first);
}

optional<weir_prefix> read_prefix(weir::Json value) {
    weir_prefix prefix;
    auto text = value.string();
    return text && weir_prefix_read(text->data(), text->size(), &prefix) ? optional(prefix) : std::nullopt;
}

} // namespace

bool Rules::read_rule(weir::Json value, unsigned number, weir::Error &error) {
    Common common;
    optional<weir_prefix> prefixes[2];
    bool has_action = false;
    for (auto key : value) {
        if (key.key == "action") {
            auto action = read_action(key.value());
            if (!action) return error.refuse("rules[%u].action: allowed are allow and deny", number);
            common.allow = *action;
            has_action = true;
        } else if (key.key == "proto") {
            auto protocol = read_protocol(key.value());
            if (!protocol) return error.refuse("rules[%u].proto: allowed are tcp, udp, icmp, icmpv6 and 0 to 255", number);
            common.protocol = static_cast<std::uint32_t>(*protocol);
            common.protocol_mask = 0xff;
        } else if (key.key == "src" || key.key == "dst") {
            auto &prefix = prefixes[key.key == "dst"];
            prefix = read_prefix(key.value());
            if (!prefix) {
                return error.refuse("rules[%u].%s: it is no prefix such as 10.0.0.0/8 or 2001:db8::1", number, key.key == "src" ? "src" : "dst");
            }
        } else if (key.key == "sport" || key.key == "dport") {
            bool source = key.key == "sport";
            auto ports = read_ports(key.value());
            if (!ports) {
                return error.refuse("rules[%u].%s: allowed are a port such as 80 and a range such as 1000-2000", number, source ? "sport" : "dport");
            }
            (source ? common.sport : common.dport) = ports->first;
            (source ? common.sports : common.dports) = ports->second;
        } else {
            return error.refuse("rules[%u]: unknown key %.*s; allowed: action, proto, src, dst, sport, dport", number,
                                static_cast<int>(key.key.size()), key.key.data());
        }
    }
    if (!has_action) return error.refuse("rules[%u]: action is missing; allowed are allow and deny", number);
    RuleV4 v4{.common = common};
    RuleV6 v6{.common = common};
    bool of_v4 = true, of_v6 = true;
    for (std::size_t place : {0, 1}) {
        if (!prefixes[place]) continue;
        if (prefixes[place]->is_v6) {
            of_v4 = false;
            v6.take(place, *prefixes[place]);
        } else {
            of_v6 = false;
            v4.take(place, *prefixes[place]);
        }
    }
    if (of_v4) v4_.add(v4);
    if (of_v6) v6_.add(v6);
    return true;
}

bool Rules::read(weir::Json config, weir::Error &error) {
    for (auto key : config) {
        if (key.key == "default") {
            auto action = read_action(key.value());
            if (!action) return error.refuse("default: allowed are allow and deny");
            default_ = *action;
        } else if (key.key == "rules") {
            if (key.value().kind() != WEIR_JSON_LIST) return error.refuse("rules: a list is needed");
            if (key.value().size() > 64) return error.refuse("rules: %u are too many, 64 at most", static_cast<unsigned>(key.value().size()));
            unsigned number = 0;
            for (auto rule : key.value()) {
                if (!read_rule(rule.value(), number++, error)) return false;
            }
        } else {
            return error.refuse("unknown key %.*s; allowed: default, rules", static_cast<int>(key.key.size()), key.key.data());
        }
    }
    return true;
}
