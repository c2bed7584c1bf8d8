// Refuses requests for private paths, and marks those that pass.

#include <string>
#include <utility>
#include <vector>
#include <weir/message.hpp>

class PathGuard : public weir::MessageFunction {
public:
    bool configure(const weir::Setup &, weir::Json config, weir::Error &error) {
        bool there = false;
        for (auto key : config) {
            if (key.key != "private") {
                return error.refuse("unknown key %.*s; allowed: private", static_cast<int>(key.key.size()), key.key.data());
            }
            there = key.value().kind() == WEIR_JSON_LIST;
            for (auto one : key.value()) {
                auto path = one.value().copy();
                if (!path || !path->starts_with('/')) return error.refuse("private: a path must begin with /");
                private_.push_back(*std::move(path));
            }
        }
        return there || error.refuse("private: a list of paths is needed");
    }

    std::uint32_t wants() { return WEIR_REQUEST_HEAD; }

    weir::Outcome request_head(weir::Exchange exchange, weir::Head &head) {
        for (const auto &path : private_) {
            if (!head.path().starts_with(path)) continue;
            refused_.add(1);
            weir_field kind = {weir::text("content-type"), weir::text("text/plain; charset=utf-8")};
            return exchange.answer(403, {kind}, "This is private.\n");
        }
        if (!head.set("x-guard", "passed")) return exchange.answer(431, {}, "The request's head is too large.\n");
        return weir::Outcome::proceed;
    }

private:
    std::vector<std::string> private_;
    weir::Counter refused_{"refused"};
};

WEIR_EXPORT_MESSAGE(PathGuard)
