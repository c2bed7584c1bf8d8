// A stateless firewall: the function that every language's SDK has as an example. What it does is specified in
// guest-sdk/packet-filter/README.md.

#include "rules.hpp"

class PacketFilter {
public:
    bool configure(const weir::Setup &, weir::Json config, weir::Error &error) { return rules_.read(config, error); }

    void process(weir::Burst &burst) {
        for (auto packet : burst) {
            if (!allowed(packet)) packet.set_verdict(weir::Verdict::drop(1));
        }
    }

private:
    bool allowed(const weir::Packet &packet) const {
        weir::Headers headers;
        switch (weir::parse(packet, headers)) {
        case weir::Frame::not_ip:
            return true;
        case weir::Frame::cut_short:
            return false;
        case weir::Frame::ipv4:
            return rules_.allow_v4(packet.start() + headers.l3 + 12, headers);
        case weir::Frame::ipv6:
            return rules_.allow_v6(packet.start() + headers.l3 + 8, headers);
        }
        return false;
    }

    Rules rules_;
};

WEIR_EXPORT(PacketFilter)
