// Refuses requests for private paths, and marks those that pass.

#include <string>
#include <string_view>
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
        auto path = head.path().substr(0, head.path().find('?'));
        bool is_private = is_unclear(path);
        for (const auto &one : private_) is_private = is_private || path.starts_with(one);
        if (is_private) {
            refused_.add(1);
            weir_field kind = {weir::text("content-type"), weir::text("text/plain; charset=utf-8")};
            return exchange.answer(403, {kind}, "This is private.\n");
        }
        if (!head.set("x-guard", "passed")) return exchange.answer(431, {}, "The request's head is too large.\n");
        return weir::Outcome::proceed;
    }

private:
    // Whether servers may read a path as another one: it is as the client wrote it, and to many `/%61`, `//a` and `/./a` are `/a`.
    static bool is_unclear(std::string_view path) {
        return path.find_first_of("%\\;") != path.npos || path.find("//") != path.npos || path.find("/.") != path.npos;
    }

    std::vector<std::string> private_;
    weir::Counter refused_{"refused"};
};

WEIR_EXPORT_MESSAGE(PathGuard)
