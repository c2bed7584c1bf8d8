// The rules of the packet filter.
#pragma once

#include <array>
#include <cstring>
#include <type_traits>
#include <weir/packet.hpp>

// What rules of both families look at.
struct Common {
    bool allow = false;
    std::uint32_t protocol = 0;
    // 0 for any protocol.
    std::uint32_t protocol_mask = 0;
    // The first port, and how many follow.
    std::uint32_t sport = 0, sports = WEIR_NO_PORT, dport = 0, dports = WEIR_NO_PORT;

    bool matches(const weir::Headers &headers) const {
        return ((headers.protocol ^ protocol) & protocol_mask) == 0 && headers.destination_port - dport <= dports &&
               headers.source_port - sport <= sports;
    }
};

// Source and destination, one after the other, as they lie in a header: two words for IPv4, four for IPv6.
template <class Word, std::size_t words> struct Rule {
    std::array<Word, words> address{}, mask{};
    Common common;

    // Takes the prefix of the source (place 0) or the destination (place 1).
    void take(std::size_t place, const weir_prefix &prefix) {
        std::array<std::uint8_t, 16> bits{};
        for (int at = 0; at < 16; at++) {
            int left = prefix.length - 8 * at;
            bits[at] = left >= 8 ? 0xff : left <= 0 ? 0 : static_cast<std::uint8_t>(0xff00 >> left);
        }
        constexpr std::size_t half = words / 2;
        std::memcpy(&address[place * half], prefix.address, half * sizeof(Word));
        std::memcpy(&mask[place * half], bits.data(), half * sizeof(Word));
    }
};

// The rules of one family, in order.
template <class Word, std::size_t words> class Family {
public:
    void add(const Rule<Word, words> &rule) { rules_[count_++] = rule; }

    // What the first rule that matches says. `addresses` is where the source's lies in the packet.
    bool allow(const std::uint8_t *addresses, const weir::Headers &headers, bool otherwise) const {
        std::array<Word, words> packet;
        std::memcpy(packet.data(), addresses, sizeof packet);
        for (const auto *rule = rules_.data(), *end = rule + count_; rule < end; rule++) {
            Word differ = 0;
            for (std::size_t word = 0; word < words; word++) differ |= (packet[word] ^ rule->address[word]) & rule->mask[word];
            if (differ == 0 && rule->common.matches(headers)) return rule->common.allow;
        }
        return otherwise;
    }

private:
    std::array<Rule<Word, words>, 64> rules_{};
    std::size_t count_ = 0;
};

using RuleV4 = Rule<std::uint32_t, 2>;
using RuleV6 = Rule<std::uint64_t, 4>;

// All rules.
class Rules {
public:
    // Reads the configuration. False after `refuse`.
    bool read(weir::Json config, weir::Error &error);

    bool allow_v4(const std::uint8_t *addresses, const weir::Headers &headers) const { return v4_.allow(addresses, headers, default_); }
    bool allow_v6(const std::uint8_t *addresses, const weir::Headers &headers) const { return v6_.allow(addresses, headers, default_); }

private:
    bool read_rule(weir::Json value, unsigned number, weir::Error &error);

    Family<std::uint32_t, 2> v4_;
    Family<std::uint64_t, 4> v6_;
    bool default_ = true;
};
