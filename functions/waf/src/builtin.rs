//! The built-in rules.
//!
//! Owns: what attacks look like, after the core ideas of the OWASP Core Rule Set. Must not know:
//! how rules are run.
//!
//! A rule is asked about a text in its canonical form (`text::canonical`: decoded, lower case,
//! simple white space) when one of its `literals` is in it. So expressions are lower case, and
//! every text that matches must contain a literal: a test sees to it for all known attacks. Level 1
//! is for what hardly occurs in honest requests; each higher level finds more, and is wrong more
//! often.

/// A rule that comes with the function.
#[derive(Debug)]
pub(crate) struct Builtin {
    pub(crate) id: u32,
    pub(crate) name: &'static str,
    /// Paranoia level from which on it is used.
    pub(crate) level: u8,
    pub(crate) score: u8,
    /// Bits of `on`.
    pub(crate) on: u16,
    pub(crate) literals: &'static [&'static str],
    pub(crate) pattern: &'static str,
    /// One of these bytes has to be there (0: any digit); with none, none has to.
    pub(crate) needs: &'static [u8],
}

impl Builtin {
    const fn needs(mut self, needs: &'static [u8]) -> Self {
        self.needs = needs;
        self
    }
}

/// Where a text comes from.
pub(crate) mod on {
    /// The request target's path.
    pub(crate) const PATH: u16 = 1;
    /// Names of arguments in query and body.
    pub(crate) const ARG_NAME: u16 = 2;
    /// Values of arguments in query and body; text bodies.
    pub(crate) const ARG: u16 = 4;
    /// Cookies' values.
    pub(crate) const COOKIE: u16 = 8;
    /// `user-agent`.
    pub(crate) const AGENT: u16 = 16;
    /// `referer`.
    pub(crate) const REFERER: u16 = 32;
    /// Other fields.
    pub(crate) const FIELD: u16 = 64;
    /// Names of files in forms.
    pub(crate) const FILE: u16 = 128;

    /// What an application works with.
    pub(crate) const INPUT: u16 = ARG_NAME | ARG | COOKIE | FILE;
    /// Everything.
    pub(crate) const ALL: u16 = INPUT | PATH | AGENT | REFERER | FIELD;
}

use on::{AGENT, ALL, ARG, ARG_NAME, COOKIE, FIELD, FILE, INPUT, PATH, REFERER};

const CRITICAL: u8 = 5;
const ERROR: u8 = 4;
const WARNING: u8 = 3;

const fn rule(
    id: u32,
    name: &'static str,
    level: u8,
    score: u8,
    on: u16,
    literals: &'static [&'static str],
    pattern: &'static str,
) -> Builtin {
    Builtin { id, name, level, score, on, literals, pattern, needs: b"" }
}

/// Numbers: 1xxx the protocol (here and in `protocol`), 2xxx scanners, 3xxx files, 4xxx code and
/// commands, 5xxx scripts in pages, 6xxx SQL, 7xxx other languages.
#[rustfmt::skip]
pub(crate) const RULES: &[Builtin] = &[
    rule(1101, "response-splitting", 1, CRITICAL, INPUT | PATH,
        &["\ncontent-", "\nset-cookie", "\nlocation", "\nhttp/", "\nhost", "\ntransfer-encoding", "\nx-"],
        r"\n(?:content-(?:type|length|disposition)|set-cookie|location|host|transfer-encoding|x-[a-z-]{2,30})\s?:|\nhttp/[0-9]"),
    rule(1102, "request-in-argument", 1, CRITICAL, INPUT,
        &["http/1.", "http/2"],
        r"\n?(?:get|post|head|options|connect|put|delete|trace)\s[^\s]{1,200}\shttp/[12]"),

    rule(2001, "scanner", 1, CRITICAL, AGENT,
        &["sqlmap", "nikto", "nessus", "acunetix", "netsparker", "w3af", "masscan", "zgrab", "nuclei", "wpscan", "dirbuster", "gobuster", "havij", "openvas", "arachni", "fimap", "jorgee", "zmeu", "feroxbuster", "ffuf", "commix", "burpcollaborator", "absinthe", "whatweb", "joomscan", "appscan"],
        r"sqlmap|nikto|nessus|acunetix|netsparker|w3af|masscan|zgrab|nuclei|wpscan|dirbuster|gobuster|havij|openvas|arachni|fimap|jorgee|zmeu|feroxbuster|ffuf|commix|burpcollaborator|absinthe|whatweb|joomscan|appscan"),
    rule(2002, "scripted-client", 3, WARNING, AGENT,
        &["python-requests", "libwww-perl", "go-http-client", "java/", "curl/", "wget/", "httpclient", "scrapy", "aiohttp"],
        r"^(?:python-requests|libwww-perl|go-http-client|java/|curl/|wget/|scrapy|python/)|httpclient|aiohttp"),

    rule(3001, "path-traversal", 1, CRITICAL, PATH | FILE,
        &["../", "..\\", "..;"],
        r"(?:^|[/\\])\.\.;?(?:[/\\]|$)|^\.\.[/\\]"),
    rule(3002, "path-traversal-in-argument", 1, CRITICAL, ARG_NAME | ARG | COOKIE | REFERER | FIELD,
        &["../..", "..\\..", "..//..", "..;/..", "....//", "....\\\\", "/../", "\\..\\", ".../.../"],
        r"(?:\.\.;?[/\\]{1,2}){2}|(?:\.{3,4}[/\\]{1,3}){2}|(?:^|[^.])[/\\]\.\.[/\\].{0,200}\.\.[/\\]|^(?:[/\\][a-z0-9_.-]{1,30}){1,10}[/\\]\.\.[/\\]"),
    rule(3003, "path-traversal-of-one-level", 2, CRITICAL, ARG_NAME | ARG | COOKIE,
        &["../", "..\\"],
        r"(?:^|[/\\=:])\.\.[/\\]"),
    rule(3004, "system-file", 1, CRITICAL, ALL,
        &["etc/", "etc\\", "proc/", "boot.ini", "win.ini", "system32", "system.ini", "var/log", "/root/", "windows/repair", "sam"],
        r"etc[/\\]+(?:passwd|shadow|group|hosts|sudoers|crontab|issue|fstab|motd|resolv\.conf|ssh[/\\]|ssl[/\\]|nginx[/\\]|apache2?[/\\]|httpd[/\\]|mysql[/\\]|my\.cnf|php)|(?:^|[/\\])proc[/\\]+(?:self|version|cpuinfo|mounts|net|\d{1,7})(?:[/\\]|$)|\bboot\.ini\b|\bwin\.ini\b|\bsystem\.ini\b|windows[/\\]+(?:system32|repair)|winnt[/\\]+system32|var[/\\]+log[/\\]+(?:apache|httpd|nginx|auth|messages|syslog|secure)|[/\\]root[/\\]\."),
    rule(3005, "secret-file", 1, CRITICAL, PATH | ARG | FILE,
        &[".git", ".svn", ".hg", ".env", ".htaccess", ".htpasswd", ".ssh", ".aws", "id_rsa", "id_ed25519", "wp-config", "web-inf", "meta-inf", "web.config", ".bash_history", ".npmrc", ".docker", ".kube", ".ds_store", "config.php.", "phpunit"],
        r"(?:^|[/\\])(?:\.git(?:[/\\]|$|config|ignore)|\.svn[/\\]|\.hg[/\\]|\.env(?:$|\.[a-z]{1,12}$)|\.ht(?:access|passwd)|\.ssh[/\\]|\.aws[/\\]|id_(?:rsa|dsa|ecdsa|ed25519)\b|wp-config\.(?:php|txt|bak|old)|(?:web|meta)-inf[/\\]|web\.config$|\.bash_history|\.npmrc|\.docker[/\\]|\.kube[/\\]|\.ds_store|config\.php\.|vendor[/\\]phpunit)"),
    rule(3006, "backup-file", 2, ERROR, PATH,
        &[".bak", ".old", ".orig", ".swp", ".sql", ".inc", ".log", ".conf", ".ini", "~"],
        r"(?:\.(?:bak|old|orig|swp|sql|inc|log|conf|ini)|[a-z0-9]~)$"),
    rule(3007, "stream-wrapper", 1, CRITICAL, INPUT | REFERER,
        &["://", "data:"],
        r"(?:^|[\s=(,'\x22])(?:php|file|phar|zip|expect|glob|gopher|dict|ldaps?|jar|netdoc|compress\.(?:zlib|bzip2)|ogg|rar|ssh2|tftp|sftp)://|^data://|^data:[a-z]{2,20}/[a-z.+-]{2,30};base64,pd9waha"),
    rule(3008, "remote-file-by-address", 1, CRITICAL, ARG,
        &["://"],
        r"^(?:https?|ftps?)://(?:\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:.]{2,45}\]|0x[0-9a-f]{8}|\d{8,10})(?:[:/?#]|$)"),
    rule(3009, "cloud-metadata", 1, CRITICAL, ARG | FIELD | REFERER,
        &["169.254.169.254", "metadata.google", "100.100.100.200", "fd00:ec2", "/latest/meta-data", "metadata/instance", "169.254.170.2"],
        r"169\.254\.(?:169\.254|170\.2)|metadata\.google(?:\.internal)?|100\.100\.100\.200|fd00:ec2::254|/latest/meta-data|/metadata/instance\?api-version"),
    rule(3010, "internal-address", 2, CRITICAL, ARG,
        &["://"],
        r"^[a-z]{2,8}://(?:[^@/]{0,60}@)?(?:localhost|127\.\d|0\.0\.0\.0|0[:/]|10\.\d|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|\[::1?\]|[^/:]{1,60}\.(?:internal|local|localhost))"),
    rule(3011, "remote-file-with-question-mark", 2, CRITICAL, ARG,
        &["://"],
        r"^(?:https?|ftps?)://[^?]{1,200}\?+$"),

    rule(4001, "shell-command", 1, CRITICAL, INPUT | PATH | REFERER | AGENT | FIELD,
        &["whoami", "uname", "wget", "curl", "ncat", "netcat", "nc ", "bash", "powershell", "cmd", "nslookup", "ifconfig", "ipconfig", "netstat", "printenv", "certutil", "bitsadmin", "systeminfo", "tasklist", "/bin/", "busybox", "telnet", "tftp", "phpinfo"],
        r"(?:;|\||&|`|\$\(|\n|<\(|\{)\s?(?:[\w./\\]{0,30}[/\\])?(?:whoami|uname|wget|curl|ncat|netcat|bash|powershell|nslookup|ifconfig|ipconfig|netstat|printenv|certutil|bitsadmin|systeminfo|tasklist|busybox|telnet|tftp)(?:\.exe)?(?:\s?$|[\s;|&`),<>\x22'])|(?:;|\||&|`|\$\(|\n)\s?(?:[\w./\\]{0,30}[/\\])?nc(?:\.exe)?\s-?[\w.]").needs(b";|&`$\n<{"),
    rule(4002, "shell-command-short", 1, CRITICAL, INPUT | PATH | REFERER | AGENT | FIELD,
        SHORT_COMMANDS,
        r"(?:;|\||&|`|\$\(|\n)\s?(?:cat\s?[<\s]\s?[/~$*.\w]|ls(?:\s?-|\s?/|\s?$|\s?[;|&`)])|id\s?(?:$|[;|&`)])|dir\s(?:[a-z]:|[/\\])|ping\s?-[nc]\s?\d|ping\s(?:-\w\s)?\d{1,3}\.|sleep\s\d|echo\s[$'\x22`\w]|rm\s-|pwd\s?(?:$|[;|&`)])|env\s?(?:$|[;|&`])|ps\s(?:-|aux)|kill\s-|chmod\s[0-7+]|touch\s/|head\s-|tail\s-|type\s[a-z]:|perl\s-|python[23]?\s-|ruby\s-|php\s-|sh\s-|find\s/|grep\s-|tac\s/|more\s/|less\s/|cp\s/|mv\s/|tee\s/|base64\s-|xxd\s|awk\s|sed\s-|net\s(?:user|view|localgroup)|reg\squery|timeout\s\d|set\s/)").needs(b";|&`$\n"),
    rule(4003, "shell-path", 1, CRITICAL, ALL & !PATH,
        &["/bin/", "/dev/tcp", "/dev/udp", "cmd", "powershell", "invoke-", "iex", "${ifs}", "$ifs", "mkfifo"],
        r"/bin/(?:ba|da|z|k|c|tc|a)?sh\b|/bin/(?:cat|ls|id|nc|ping|sleep|rm|wget|curl|uname|echo)\b|/dev/(?:tcp|udp)/|\bcmd(?:\.exe)?\s?/[ck]\b|\bpowershell(?:\.exe)?\s-|\binvoke-(?:expression|webrequest|command|restmethod)\b|\biex\s?\(|\$\{?ifs\b|\bmkfifo\s/"),
    rule(4004, "shellshock", 1, CRITICAL, ALL,
        &["() {", "(){", "( ) {", "( ){"],
        r"\(\s?\)\s?\{[^}]{0,40};[^}]{0,40}\}?"),
    rule(4005, "command-substitution", 2, CRITICAL, INPUT,
        &["$(", "`", "<(", "${"],
        r"\$\([^)]{1,200}\)|`[^`]{1,200}`|[<>]\([a-z/][^)]{1,200}\)|\$\{[a-z_]{1,40}[:#%/!@]"),
    rule(4006, "shell-obfuscation", 2, CRITICAL, INPUT,
        &["\\", "''", "\"\"", "$@", "$*", "^", "?/", "*/"],
        r"(?:^|[;|&`\n]\s?)(?:[a-z/.]{1,10}(?:\\|''|\x22\x22|\$@|\$\*|\^)){1,10}[a-z]{1,10}\s+[/\w-]|/(?:\?|[a-z]\?|\?[a-z]){1,3}[/?][\w?*]{1,20}"),

    rule(4101, "php-tag", 1, CRITICAL, ALL & !PATH,
        &["<?"],
        r"<\?(?:php\b|=|\s?(?:system|eval|echo|exec|passthru|assert))"),
    rule(4102, "php-function", 1, CRITICAL, INPUT | PATH,
        &["shell_exec", "passthru", "proc_open", "popen", "phpinfo", "base64_decode", "file_get_contents", "file_put_contents", "call_user_func", "create_function", "pcntl_exec", "system(", "exec(", "assert(", "eval(", "allow_url_include", "auto_prepend_file", "array_map(", "move_uploaded_file", "str_rot13", "gzinflate"],
        r"\b(?:shell_exec|passthru|proc_open|popen|phpinfo|base64_decode|file_(?:get|put)_contents|call_user_func(?:_array)?|create_function|pcntl_exec|move_uploaded_file|str_rot13|gzinflate)\s?\(|\b(?:system|exec|assert|eval|array_map)\(\s?(?:['\x22$\\]|base64|chr\(|gz|str_|id\b|ls\b|whoami|\w{1,20}\()|allow_url_include\s?=|auto_prepend_file\s?="),
    rule(4103, "php-object", 1, CRITICAL, INPUT,
        &["o:", "a:"],
        r#"(?:^|[;{])[oc]:\d{1,4}:"[\w\\]{1,100}":\d{1,4}:\{|^a:\d{1,4}:\{(?:i:\d|s:\d{1,4}:")"#),
    rule(4104, "php-variable", 2, CRITICAL, INPUT,
        &["$_", "$globals", "${@"],
        r"\$_(?:get|post|request|cookie|server|files|session|env)\b|\$globals\b|\$\{@"),
    rule(4201, "jndi", 1, CRITICAL, ALL,
        &["${"],
        r"\$\{\s?(?:jndi|ctx|lower|upper|env|sys|java|date|main|bundle|k8s|docker|web|map|sd|spring|base64)\s?:|\$\{[^}]{0,60}\$\{|\$\{\s?::?-"),
    rule(4202, "java-class", 1, CRITICAL, INPUT | FIELD | PATH,
        &["java.lang", "getruntime", "processbuilder", "classloader", "memberaccess", "ognl", "javax.script", "scriptengine", "com.sun.", "org.apache.commons.collections", "ro0ab", "aced0005", "t(java", "xwork"],
        r"java\.lang\.(?:runtime|processbuilder|class|system|string|reflect|math)|\bgetruntime\b|\bprocessbuilder\b|class\.(?:module\.)?classloader|#_?memberaccess|ognl\.|javax\.script\.|\bscriptenginemanager\b|com\.sun\.(?:rowset|org)|org\.apache\.commons\.collections|^ro0ab[a-z0-9+/]{10}|^aced0005|\bt\(java\.|#context\[|xwork\.methodaccessor"),
    rule(4203, "expression-language", 1, CRITICAL, INPUT | FIELD | PATH,
        &["%{", "${", "#{", "*{"],
        r"[%$#*]\{\s?(?:\(?#|@java|\d{1,9}\s?[*+/-]\s?\d{1,9}|t\(|''\.|\x22\x22\.|request\.|session\.|application\.|param\.|new java|\w{1,20}\.getclass)"),
    rule(4301, "template", 1, CRITICAL, INPUT | PATH,
        &["{{", "{%", "<%", "__class__", "__mro__", "__subclasses__", "__globals__", "__import__", "__builtins__", "__init__"],
        r"\{\{.{0,100}?(?:\d{1,9}\s?\*\s?'?\d|__\w{1,20}__|\bconfig\b|\bself\.|\brequest\.|\brange\.|constructor|\.getclass|\bcycler\b|\blipsum\b|\bjoiner\b|\bphp\b|\|\s?(?:attr|filter|map|system)|_self\b).{0,200}?\}\}|\{%\s?(?:import|include|for|if|set|debug)\b.{0,100}?(?:__|\(\)|config|os\b)|<%=?\s?(?:\d{1,9}\s?\*|system|file\.|`|request|runtime|exec)|__(?:class|mro|subclasses|globals|import|builtins|init|bases)__"),
    rule(4302, "node", 1, CRITICAL, INPUT,
        &["process.", "require(", "child_process", "__proto__", "constructor.prototype", "constructor[prototype", "global.", "_$$nd_func", "fs.read"],
        r"\bprocess\.(?:env\b|mainmodule|binding|exit|cwd\()|\brequire\s?\(\s?['\x22`](?:child_process|fs|net|os|http|vm|node:)|\bchild_process\b|__proto__|constructor(?:\.|\[)['\x22]?prototype|\bglobal\.process\b|_\$\$nd_func\$\$_|\bfs\.read(?:file|dir)"),
    rule(4303, "python-code", 1, CRITICAL, INPUT,
        &["os.system", "os.popen", "subprocess.", "__import__", "eval(compile", "pickle.loads", "cos\nsystem"],
        r"\bos\.(?:system|popen)\s?\(|\bsubprocess\.(?:call|popen|run|check_output|getoutput)|__import__\s?\(|\beval\(compile|\bpickle\.loads|^cos\nsystem"),
    rule(4304, "ruby-code", 2, CRITICAL, INPUT,
        &["kernel.", "io.popen", "%x", "open(\"|", "open('|", "erb.new"],
        r"\bkernel\.(?:exec|system|open)|\bio\.popen|%x[({\[]|\bopen\(['\x22]\||\berb\.new"),

    rule(5001, "script-tag", 1, CRITICAL, INPUT | PATH | AGENT | REFERER | FIELD,
        &["<script", "</script", "< script", "<\nscript"],
        r"<\s?/?\s?script\b"),
    rule(5002, "event-handler", 1, CRITICAL, INPUT | PATH | REFERER | AGENT | FIELD,
        &["onerror", "onload", "onclick", "onmouse", "onfocus", "ontoggle", "onanimation", "onpointer", "onbegin", "onstart", "onwheel", "onkey", "onblur", "onchange", "oninput", "onsubmit", "ondrag", "ondblclick", "onresize", "onscroll", "onhashchange", "onpage", "onmessage", "ontransition", "onsearch", "oncut", "oncopy", "onpaste", "onbefore", "onunload", "onwebkit", "oncontextmenu", "onauxclick", "onafter", "onplay", "oncanplay", "oninvalid", "onreset", "onselect", "onend", "onfinish", "onbounce", "ontouch", "onshow", "onpopstate", "onstorage", "ondrop", "onrepeat", "ongesture", "onformdata", "onfullscreen", "onloadstart", "onreadystatechange"],
        r"(?:[\s\x22'`/;<>\x0b\x0c]|^)on(?:error|load(?:start|eddata|edmetadata|end)?|click|mouse[a-z]{2,8}|focus(?:in|out)?|toggle|animation[a-z]{3,10}|pointer[a-z]{2,20}|begin|start|wheel|key[a-z]{2,6}|blur|change|input|submit|drag[a-z]{0,6}|dblclick|resize|scroll(?:end)?|hashchange|page(?:show|hide)|message|transition[a-z]{3,7}|search|cut|copy|paste|before[a-z]{3,12}|unload|webkit[a-z]{3,30}|contextmenu|auxclick|after[a-z]{3,12}|play(?:ing)?|canplay[a-z]{0,9}|invalid|reset|select(?:start|ionchange)?|end(?:ed)?|finish|bounce|touch[a-z]{3,7}|show|popstate|storage|drop|repeat|gesture[a-z]{3,7}|formdata|fullscreen[a-z]{5,7}|readystatechange)[\s\x22'`/]{0,3}="),
    rule(5003, "script-uri", 1, CRITICAL, INPUT | REFERER | PATH | FIELD,
        &["script:", "script :", "cript:", "ript:", "ipt:", "pt:", "t:", "text/html"],
        r"(?:j\s?a\s?v\s?a|v\s?b|l\s?i\s?v\s?e)\s?s\s?c\s?r\s?i\s?p\s?t\s?:[^\n]{0,200}?[(`=\[]|data\s?:\s?(?:text/html|image/svg\+xml|application/xhtml\+xml)\s?[;,]").needs(b":"),
    rule(5004, "active-tag", 1, CRITICAL, INPUT | PATH | REFERER | AGENT,
        &["<iframe", "<object", "<embed", "<applet", "<meta", "<base", "<svg", "<math", "<frame", "<layer", "<xss", "<portal", "<isindex", "<bgsound", "<ilayer", "<animate", "<foreignobject", "<use", "<set ", "<xml"],
        r"<(?:iframe|object|embed|applet|meta|base|svg|math|frame(?:set)?|i?layer|xss|portal|isindex|bgsound|animate[a-z]{0,10}|foreignobject|use|set|xml)(?:[\s/>:]|$)"),
    rule(5005, "tag-after-quote", 1, CRITICAL, INPUT | PATH | REFERER,
        &["\">", "'>", "\" >", "' >", "\"/>", "'/>", "`>"],
        r"[\x22'`]\s?/?>\s?<\s?[a-z!/]"),
    rule(5006, "script-call", 1, CRITICAL, INPUT | PATH | REFERER | AGENT,
        &["alert", "confirm", "prompt", "document.", "document[", "fromcharcode", "eval(", "settimeout(", "setinterval(", "innerhtml", "localstorage", "window.", "window[", "self[", "top[", "this[", "atob(", "location"],
        r"\b(?:alert|confirm|prompt|print)\s?(?:\(\s?(?:\d|document|['\x22`/)]|window|location|origin|self|xss)|`)|\bdocument\s?(?:\.\s?(?:cookie|write(?:ln)?\b|location|domain|body\.|getelement|createelement)|\[)|\bfromcharcode\b|\beval\s?\(\s?(?:atob|string|['\x22`/]|document|location|name|window|unescape|decodeuri)|\bset(?:timeout|interval)\s?\(\s?['\x22`]|\.innerhtml\s?=|\b(?:window|self|top|this|parent|frames|globalthis)\s?\[\s?['\x22`/+]|\batob\s?\(\s?['\x22`]|\blocation\s?(?:=\s?['\x22`]?\s?(?:javascript|name|//|http)|\.(?:href|replace|assign)\s?[=(])|\bwindow\.(?:location|open\s?\(|name\b|onerror)").needs(b"(`=[."),
    rule(5007, "attribute-uri", 1, CRITICAL, INPUT | REFERER,
        &["srcdoc", "formaction", "xlink:href", "-moz-binding", "expression(", "expression (", "@import", "behavior:", "behaviour:"],
        r"\bsrcdoc\s?=|\bformaction\s?=|\bxlink:href\s?=|-moz-binding\s?:|(?:width|style|height|left|top|color)\s?[:=].{0,40}\bexpression\s?\(|@import\s?['\x22(]|@import url|behaviou?r\s?:\s?url"),
    rule(5008, "img-tag", 2, ERROR, INPUT | PATH,
        &["<img", "<video", "<audio", "<body", "<style", "<link", "<form", "<input", "<button", "<textarea", "<details", "<marquee", "<image", "<table", "<html", "<source", "<keygen", "<select", "<a "],
        r"<(?:img|image|video|audio|body|style|link|form|input|button|textarea|details|marquee|table|html|source|keygen|select|a)[\s/>]"),
    rule(5009, "any-tag", 3, ERROR, INPUT,
        &["<"],
        r"</?[a-z!][^<>]{0,200}>"),
    rule(5010, "obfuscated-script", 2, CRITICAL, INPUT,
        &["[]", "+!", "![", "\\x", "\\u00"],
        r"(?:(?:\[\]|!\[\]|\+!\+|!\+|\(!|\]\)|\+\[){1}){4}|(?:\\x[0-9a-f]{2}){4}|(?:\\u00[0-9a-f]{2}){4}"),

    rule(6001, "union-select", 1, CRITICAL, ALL,
        &["union"],
        r"\bunion\b[\s(+@!\x22'`-]{1,30}(?:all\b[\s(+@!\x22'`-]{1,30}|distinct\b[\s(+@!\x22'`-]{1,30}|distinctrow\b[\s(+@!\x22'`-]{1,30})?select\b"),
    rule(6002, "quote-and-condition", 1, CRITICAL, ALL & !FIELD,
        &["or", "and", "||", "&&", "xor", "having", "where"],
        r"['\x22`]\s?\)*\s?(?:\b(?:or|and|xor|having|where)\b|\|\||&&)\s?(?:not\s?)?[\s('\x22`!~+@-]{0,10}[\w.@]{0,30}[\s'\x22`)]{0,6}(?:=|<=>|<>|!=|[<>]|\b(?:like|rlike|regexp|is|in|between|sounds like)\b\s?[('\x22`%\dn])").needs(b"'\"`"),
    rule(6003, "numbers-compared", 1, CRITICAL, ALL & !FIELD & !PATH,
        &["or", "and", "||", "&&", "having"],
        r"(?:\b(?:or|and|xor|having)\b|\|\||&&)[\s('\x22`!~+-]{0,8}\d{1,10}[\s'\x22`)]{0,6}(?:=|<=>|<>|!=|\blike\b)[\s('\x22`~+-]{0,8}\d{1,10}").needs(b"0"),
    rule(6004, "quote-and-comment", 1, CRITICAL, INPUT | PATH,
        &["--", "#", "/*", ";%00", ";"],
        r"['\x22`]\s?\)*\s?;?\s?(?:--\s?[+-]?\s?$|#\s?$|/\*[^*]{0,40}$|;\s?$)|^[\w.@-]{1,40}['\x22]\s?\)*\s?(?:--|#|/\*)|\b\d{1,10}\s?\)*\s?--\s?-?\s?$").needs(b"'\"-#;"),
    rule(6005, "stacked-query", 1, CRITICAL, ALL & !FIELD,
        &["select", "insert", "update", "delete", "drop", "create", "alter", "exec", "declare", "shutdown", "truncate", "waitfor", "copy", "grant", "merge", "set @"],
        r";\s?(?:select\s[\w@*('\x22]|insert\sinto\b|update\s[\w.`\x22\[\]]{1,60}\sset\b|delete\sfrom\b|drop\s(?:table|database|view|user|index|column)\b|create\s(?:table|user|database|function|or\sreplace)\b|alter\s(?:table|user|database)\b|exec(?:ute)?[\s(]+(?:xp_|sp_|master|immediate|@|\()|declare\s@|shutdown\b|truncate\stable\b|waitfor\sdelay\b|copy\s\w|grant\s\w|merge\sinto|set\s@)").needs(b";"),
    rule(6006, "time-delay", 1, CRITICAL, ALL,
        &["sleep", "benchmark", "waitfor", "dbms_", "randomblob", "generate_series"],
        r"\b(?:pg_)?sleep\s?\(\s?\d{1,6}(?:\.\d{1,3})?\s?\)|\bbenchmark\s?\(\s?\d{1,12}\s?,|\bwaitfor\s(?:delay|time)\s?['\x22(]|\bdbms_(?:lock|pipe|session|ldap|xmlgen|java)\.|\brandomblob\s?\(\s?\d{5}|\bgenerate_series\s?\(\s?1\s?,\s?\d{6}|\bif\s?\(.{1,80},\s?sleep\s?\("),
    rule(6007, "schema", 1, CRITICAL, ALL,
        &["information_schema", "sysobjects", "syscolumns", "sqlite_master", "sqlite_schema", "pg_catalog", "pg_shadow", "pg_user", "mysql.user", "mysql.innodb", "@@version", "@@datadir", "@@hostname", "xp_cmdshell", "xp_dirtree", "sp_executesql", "sp_oacreate", "load_file", "outfile", "dumpfile", "extractvalue", "updatexml", "group_concat", "utl_http", "utl_inaddr", "all_tab", "sys.user", "v$version", "xmltype", "ctxsys", "pg_read_file", "lo_import", "current_setting", "table_name", "openrowset", "openquery", "performance_schema", "master..", "from dual"],
        r"\binformation_schema\b|\bsys(?:objects|columns)\b|\bsqlite_(?:master|schema)\b|\bpg_(?:catalog|shadow|user|read_file)\b|\bmysql\.(?:user|innodb)|@@(?:version|datadir|hostname|basedir)\b|\bxp_(?:cmdshell|dirtree|regread)\b|\bsp_(?:executesql|oacreate)\b|\bload_file\s?\(|\binto\s(?:out|dump)file\b|\bextractvalue\s?\(|\bupdatexml\s?\(|\bgroup_concat\s?\(|\butl_(?:http|inaddr)\.|\ball_tab(?:les|_columns)\b|\bsys\.user|\bv\$version\b|\bxmltype\s?\(|\bctxsys\.|\blo_import\s?\(|\bcurrent_setting\s?\(|\bselect\b.{1,60}\btable_name\b|\bopen(?:rowset|query)\s?\(|\bperformance_schema\.|\bmaster\.\.(?:xp|sys)|\bselect\b.{1,100}\bfrom dual\b"),
    rule(6008, "select-from", 1, CRITICAL, ALL & !FIELD,
        &["select"],
        r"\bselect\b\s?(?:[*(]|count\s?\(|concat(?:_ws)?\s?\(|char\s?\(|chr\s?\(|ascii\s?\(|substr(?:ing)?\s?\(|user\s?\(|database\s?\(|version\s?\(|current_user\b|@@|\d{1,9}\s?,|null\s?(?:,|from|--|$)|['\x22][^'\x22]{0,40}['\x22]\s?(?:,|from)|cast\s?\(|top\s\d|load_file|hex\s?\(|if\s?\(|case\swhen|length\s?\(|pg_|sleep).{0,200}?(?:\bfrom\b|\)|,|--|#|$)|\(\s?select\s[\w@('*]{1,60}.{0,200}?\bfrom\s[\w.`\x22\[(]"),
    rule(6009, "case-order-having", 1, CRITICAL, INPUT | PATH | REFERER,
        &["case", "order by", "group by", "having", "if(", "if (", "iif", "procedure", "rlike", "limit"],
        r"\bcase\s(?:when\b.{1,80}\bthen\b|\w{1,20}\swhen\b)|\border by \d{1,3}\s?(?:--|#|/\*|asc\b|desc\b|,\s?\d)|\bgroup by\b.{1,80}\bhaving\b\s?\d|\bhaving\s\d{1,9}\s?[=<>]|\bi?if\s?\(\s?\(?(?:\d{1,9}\s?=\s?\d|select\b|ascii|substr|length|user)|\bprocedure analyse\b|\b(?:or|and)\s[^\s]{1,40}\srlike\s?\(|\blimit\s\d{1,9}\s?(?:,\s?\d{1,9}\s?)?(?:--|#|into\b|procedure)").needs(b"(=<>-#,/0"),
    rule(6010, "string-function", 1, CRITICAL, INPUT | PATH | REFERER,
        &["char(", "chr(", "char (", "unhex(", "concat(", "ascii(", "substring(", "substr(", "mid(", "ord(", "hex("],
        r"\bcha?r\s?\(\s?\d{2,3}\s?\)?(?:\s?(?:\|\||,|\+)\s?(?:cha?r\s?\(\s?)?\d{2,3}){1}|\bunhex\s?\(|\bconcat\s?\(\s?(?:0x|char|chr|@@|version|user|database|\(?select|'~|0x7e|md5|ascii)|\b(?:ascii|ord|hex)\s?\(\s?(?:substr(?:ing)?|mid|lower|user|database|version|password)\s?\(?|\b(?:substr(?:ing)?|mid)\s?\(\s?(?:\(?select|@@|user|database|version|password|username|current)"),
    rule(6011, "quote-and-operator", 1, CRITICAL, INPUT | PATH | REFERER,
        &["'=", "' =", "'|", "' |", "'+", "' +", "'^", "' ^", "'*", "' *", "'-", "' -", "'&", "' &", "'%", "' %", "'/", "' /", "'<", "' <", "'>", "' >", "'!", "' !", "' div", "'div", "' like", "'like", "' rlike", "'rlike", "' is", "'is", "' or", "'or", "' and", "'and", "' xor", "'xor", "\nor", "\" or", "\"or", "\" and", "\"and", "\"|", "\" |", "\"&", "\" &"],
        r"^[^'\x22]{0,40}'\s?(?:=|<>|!=|<=>|\|\||\^|&&?|%|[<>]|\*|div\b|-|\+|/|like\b|is\b|r?like\b)\s?'{1,2}[^']{0,40}'?$|^\w{0,20}'\s?(?:or|and|xor|\|\||&&)\s?'[^']{0,20}(?:'|$)\s?(?:=|<|>|like|$|or\b|--|#)|^\w{0,20}\x22\s?(?:or|and|\|\||&&)\s?\x22{1,2}[^\x22]{0,20}(?:=|$)|^\w{0,20}'\s?or\s?(?:not\s|true\b|1\b|\(?select|exists|\w{1,20}\s?\()"),
    rule(6012, "data-change", 2, CRITICAL, INPUT,
        &["insert", "update", "delete", "drop", "alter", "truncate", "create"],
        r"\binsert\sinto\s[^\s]{1,80}\s?(?:\(|values\b|select\b)|\bupdate\s[^\s]{1,80}\sset\s[^\s]{1,80}\s?=|\bdelete\sfrom\s\w|\bdrop\s(?:table|database|schema|user)\s\w|\balter\stable\s\w|\btruncate\stable\s\w|\bcreate\s(?:table|user|database|procedure)\s\w"),
    rule(6013, "select-from-loosely", 2, CRITICAL, INPUT,
        &["select"],
        r"\bselect\b.{1,200}?\bfrom\b.{1,100}?(?:\bwhere\b|\bunion\b|--|;|\blimit\s\d|\border by\b|$)"),
    rule(6014, "hexadecimal", 2, ERROR, INPUT,
        &["0x"],
        r"(?:^|[\s=(,])0x[0-9a-f]{8}"),
    rule(6015, "comment", 2, ERROR, INPUT,
        &["--", "#", "/*", "*/"],
        r"['\x22`)\d]\s?(?:--[\s+]|#(?:\s|$)|/\*)|/\*!?\d{0,5}|\*/|;\s?--"),
    rule(6016, "many-quotes", 3, ERROR, ARG | COOKIE,
        &["'", "\"", "`"],
        r"(?:['\x22`][^'\x22`]{0,20}){4}[;=()|&#]"),
    rule(6017, "special-characters", 4, WARNING, ARG | ARG_NAME,
        &["'", "\"", ";", "(", "<", "|", "`", "{", "#", "\\", "$"],
        r"(?:['\x22;()<>|`{}#\\$=*&^!~][^'\x22;()<>|`{}#\\$=*&^!~]{0,10}){6}"),

    rule(7001, "nosql-operator", 1, CRITICAL, ARG_NAME,
        &["$"],
        r"(?:^|[\[.])\$(?:ne|gte?|lte?|in|nin|regex|where|or|and|nor|not|exists|expr|function|accumulator|elemmatch|size|mod|type|jsonschema|text|comment)\b"),
    rule(7002, "nosql-value", 1, CRITICAL, ARG | COOKIE,
        &["$", "return", "||", ".match"],
        r#"[{,]\s?['"]?\$(?:ne|gte?|lte?|in|nin|regex|where|or|exists|expr|function)['"]?\s?:|['"]\s?;\s?return\s(?:true|!|')|['"]\s?\|\|\s?['"]?1['"]?\s?==|\bthis\.\w{1,30}\.match\s?\("#),
    rule(7003, "ldap-filter", 1, CRITICAL, INPUT,
        &[")(", ") ("],
        r"\*?\)\s?\(\s?(?:[|&!]\s?)?\(?\s?[a-z]{1,30}\s?[~<>]?=|\)\(\||\)\(&"),
    rule(7004, "xml-entity", 1, CRITICAL, ARG | ARG_NAME,
        &["<!entity", "<!doctype", "xinclude", "<xi:"],
        r"<!entity\s|<!doctype\s[^>]{0,200}(?:\[|system\s|public\s.{0,100}http)|<xi:include|xmlns:xi\s?="),
    rule(7005, "xpath", 2, CRITICAL, ARG,
        &["'", "\""],
        r"['\x22]\s?(?:\]|or\b.{0,40}\bposition\s?\(|and\b.{0,40}\bcount\s?\(|\|\s?//)"),
    rule(7006, "mail-header", 2, ERROR, ARG,
        &["\nbcc:", "\ncc:", "\nto:", "\nsubject:", "\nmime-version"],
        r"\n(?:bcc|cc|to|subject|mime-version)\s?:"),
    rule(7007, "server-side-include", 1, CRITICAL, INPUT | AGENT | REFERER,
        &["<!--#", "<!-- #"],
        r"<!--\s?#\s?(?:exec|include|echo|config|printenv|fsize|flastmod)\b"),
];

/// Separators with short commands: neither alone says anything.
const SHORT_COMMANDS: &[&str] = &SHORT;
const SHORT: [&str; 38] = [
    "cat", "ls", "id", "dir ", "ping", "sleep ", "echo ", "rm -", "pwd", "env", "ps ", "kill -",
    "chmod ", "touch /", "head -", "tail -", "type ", "perl -", "python", "ruby -", "php -",
    "sh -", "find /", "grep -", "tac ", "more /", "less /", "cp /", "mv /", "tee /", "base64 -",
    "xxd ", "awk ", "sed -", "net ", "reg ", "timeout ", "set /",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_expressions_compile() {
        let mut numbers: Vec<_> = RULES.iter().map(|rule| rule.id).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), RULES.len());
        for rule in RULES {
            let regex = regex::bytes::RegexBuilder::new(rule.pattern).unicode(false).build();
            assert!(regex.is_ok(), "{}: {regex:?}", rule.id);
            assert!(!rule.literals.is_empty() && (1..=4).contains(&rule.level), "{}", rule.id);
            assert!(rule.on & !ALL == 0 && rule.on != 0, "{}", rule.id);
            for literal in rule.literals {
                assert!(
                    !literal.is_empty() && *literal == literal.to_ascii_lowercase(),
                    "{literal}"
                );
            }
        }
    }
}
