// Drops TCP and UDP packets to blocked ports.

#include <bitset>
#include <weir/packet.hpp>

class PortBlock {
public:
    bool configure(const weir::Setup &, weir::Json config, weir::Error &error) {
        bool there = false;
        for (auto key : config) {
            if (key.key != "blocked") {
                return error.refuse("unknown key %.*s; allowed: blocked", static_cast<int>(key.key.size()), key.key.data());
            }
            there = key.value().kind() == WEIR_JSON_LIST;
            for (auto one : key.value()) {
                auto port = one.value().integer(1, 65535);
                if (!port) return error.refuse("blocked: allowed are ports from 1 to 65535");
                blocked_[*port] = true;
            }
        }
        return there || error.refuse("blocked: a list of ports is needed");
    }

    void process(weir::Burst &burst) {
        for (auto packet : burst) {
            weir::Headers headers;
            auto frame = weir::parse(packet, headers);
            // A port could be hidden in what cannot be read, such as a tiny first fragment (RFC 1858).
            if (frame == weir::Frame::cut_short) packet.set_verdict(weir::Verdict::drop(2));
            // What is no IP goes on: all verdicts are `next` before.
            if (frame < weir::Frame::ipv4) continue;
            // What is neither TCP nor UDP has no port.
            if (headers.destination_port != WEIR_NO_PORT && blocked_[headers.destination_port]) {
                packet.set_verdict(weir::Verdict::drop(1));
                count_.add(1);
            }
        }
    }

private:
    std::bitset<65536> blocked_;
    weir::Counter count_{"blocked"};
};

WEIR_EXPORT(PortBlock)
