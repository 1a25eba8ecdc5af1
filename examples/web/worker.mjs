// worker.mjs - the model, in a thread of its own. It is sent {open: files} once, files [{path, blob}] of the user's or
// null for the demo model, then {begin: what to say, and how}, {look: where} and {stop}.
import {Exit, instantiate} from "./wasi.mjs";

const LIMIT = 3.75 * 2 ** 30; // of 4 GiB that a program can have; caches and scratch take the rest
const DEMO = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
const gigabytes = n => (n / 1e9).toFixed(1) + " GB";
let web, about, going = 0, look = {layer: -1, head: -1};

const text = () => {
    const all = new Uint8Array(web.memory.buffer), at = web.web_text() >>> 0;
    return new TextDecoder().decode(all.slice(at, all.indexOf(0, at)));
};
const pause = ms => new Promise(done => setTimeout(done, ms)); // in which messages come
const checked = result => { if (result < 0) throw new Error(text()); return result; };
function put(string) { // -> [where it lies, with a NUL behind it, its length]
    const bytes = new TextEncoder().encode(string + "\0"), at = web.web_room(bytes.length) >>> 0;
    new Uint8Array(web.memory.buffer).set(bytes, at);
    return [at, bytes.length - 1];
}

async function program() { // the fastest that this engine takes
    for (const kind of ["relaxed", "simd", "scalar"]) {
        const answer = await fetch(`mla-${kind}.wasm.gz`);
        if (!answer.ok) continue;
        let bytes = await answer.arrayBuffer();
        if (new Uint8Array(bytes)[0] === 0x1f) // not unpacked on the way
            bytes = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")))
                .arrayBuffer();
        if (WebAssembly.validate(bytes)) return {kind, module: await WebAssembly.compile(bytes)};
    }
    throw new Error("mla-scalar.wasm.gz: not found, or this browser has no WebAssembly");
}

const demo = () => Promise.all(DEMO.map(async name => {
    const answer = await fetch("tales/" + name);
    if (!answer.ok) throw new Error(`tales/${name}: ${answer.status} ${answer.statusText}`);
    return {path: "tales/" + name, blob: await answer.blob()};
}));

// A GGUF file, or the directory of a config.json; what is too large is refused before it is read.
function chosen(files) {
    const gguf = files.map(f => f.path).filter(p => p.endsWith(".gguf")).sort()[0];
    const config = files.find(f => /(^|\/)config\.json$/.test(f.path));
    if (!gguf && !config) throw new Error("neither a .gguf file nor a directory with config.json and .safetensors");
    const weights = files.filter(f => f.path.endsWith(gguf ? ".gguf" : ".safetensors"));
    const bytes = weights.reduce((n, f) => n + f.blob.size, 0), name = gguf || weights.map(f => f.path).join(", ");
    if (bytes > LIMIT)
        throw new Error(`${name}: ${gigabytes(bytes)} of weights, and a page has room for ${gigabytes(LIMIT)}`);
    return "/" + (gguf || config.path.replace(/\/?config\.json$/, ""));
}

async function open(given) {
    const files = given || await demo(), path = chosen(files), all = new Map(files.map(f => [f.path, f.blob]));
    const total = files.reduce((n, f) => n + f.blob.size, 0), reader = new FileReaderSync();
    const {kind, module} = await program();
    let done = 0, said = 0;
    const file = name => all.has(name) ? {size: all.get(name).size, read(at, n) {
        const piece = new Uint8Array(reader.readAsArrayBuffer(all.get(name).slice(at, at + Math.min(n, 1 << 24))));
        if ((done += piece.length) > said + total / 50) postMessage({reading: Math.min(1, (said = done) / total)});
        return piece;
    }} : [...all.keys()].some(key => key.startsWith(name + "/")) ? {size: -1, read: () => new Uint8Array(0)} : null;
    web = (await instantiate(module, {file, write() {}})).exports;
    web._initialize();
    checked(web.web_open(put(path)[0]));
    about = JSON.parse(text());
    postMessage({about: {...about, kind, name: path.slice(1) || "files"}});
    // engines make fast code of what has run for a while: so it runs until it is asked something, two seconds at most
    const me = ++going, end = performance.now() + 2000;
    for (let due = 0, kind = 2; me === going && performance.now() < end;)
        if (performance.now() > due) await pause(0), due = performance.now() + 20;
        else kind = checked(kind === 2 ? web.web_begin(...put("a"), 0, 0, 1, 500) : web.web_step());
}

// What the last token attended to: the rows of a map, layers or with a layer chosen its heads, and one strip of them.
function seen() {
    const keys = web.web_keys(), {layers, heads, taken} = about, {layer, head} = look;
    const all = new Float32Array(web.memory.buffer, web.web_probs() >>> 0, layers * heads * keys);
    const rows = layer < 0 ? layers : heads, map = new Float32Array(rows * keys), strip = new Float32Array(keys);
    const one = layer >= 0 && head >= 0;
    for (let r = 0; r < rows; r++)
        for (let k = 0; k < keys; k++) {
            let x = layer < 0 ? 0 : all[(layer * heads + r) * keys + k];
            for (let h = 0; layer < 0 && h < heads; h++) x += all[(r * heads + h) * keys + k] / heads;
            map[r * keys + k] = x, strip[k] += one && head !== r ? 0 : x / (one ? 1 : rows);
        }
    const experts = new Int32Array(web.memory.buffer, web.web_experts() >>> 0, layers * taken).slice();
    return {keys, rows, map, strip, layer, experts};
}

async function begin({prompt, chat, temperature, seed, room, pace}) {
    const me = ++going, [at, n] = put(chat ? JSON.stringify({messages: prompt}) : prompt);
    checked(web.web_begin(at, n, chat ? 1 : 0, temperature, seed, room));
    const tokens = JSON.parse(text());
    let told = 0, spent = 0, made = 0, piece = "", added = [];
    const begun = performance.now();
    postMessage({tokens});
    const tell = over => {
        const rate = made ? made / spent * 1e3 : 0;
        postMessage({piece, added, over, made, rate, ...(made ? seen() : {})});
        told = performance.now(), piece = "", added = [];
    };
    for (;;) {
        const from = performance.now(), kind = checked(web.web_step());
        if (kind === 2) break;
        if (kind === 1) {
            const [characters, token] = JSON.parse(text());
            spent += performance.now() - from, made++, piece += characters, added.push(token);
        }
        const wait = pace ? begun + made * 1e3 / pace - performance.now() : 0;
        const due = wait > 0 || performance.now() > told + 100; // what is drawn takes time from the model
        if (kind === 1 && due) tell(false);
        if (kind === 0 || due) await pause(wait);
        if (me !== going) break;
    }
    tell(true);
}

onmessage = async ({data}) => {
    try {
        if ("open" in data) await open(data.open);
        else if (data.begin) await begin(data.begin);
        else if (data.look) look = data.look, data.seen && postMessage(seen());
        else if (data.stop) going++;
    } catch (e) {
        const broke = e instanceof Exit || e instanceof WebAssembly.RuntimeError;
        postMessage({error: broke ? `the program broke off: ${e.message}` : e.message});
    }
};
