// llama.mjs - runs llama.cpp: the prebuilt binary that the npm package node-llama-cpp brings for the CPU, without the package around it,
// which takes 725 MB with those for graphics cards.
//     install(DIR)                                   into DIR/node_modules, if it is not there; throws if that cannot be
//     const llama = await load(DIR)
//     const run = await open(llama, FILE, { threads: 2, context: 64, batch: 64, cache: 'f32' })
//     await run.feed(ids)                            the next tokens; gives the logits' places of the last, or of all with { all: true }
//     await run.logits(place)                        -> Float32Array of the vocabulary
//     await run.greedy(place)                        -> a token
//     run.tokenize(text)                             -> tokens of the file's own tokenizer, special ones included
//     run.clear()                                    forgets all tokens
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const VERSION = '3.22.1', PACKAGE = `@node-llama-cpp/linux-${process.arch}`;
const folder = (dir) => path.resolve(dir, 'node_modules', PACKAGE, `bins/linux-${process.arch}`);

export function install(dir) {
    if (fs.existsSync(path.join(folder(dir), 'llama-addon.node'))) return;
    fs.mkdirSync(dir, { recursive: true });
    execFileSync('npm', ['install', '--prefix', dir, '--no-audit', '--no-fund', '--fetch-retries=1', '--fetch-timeout=20000', `${PACKAGE}@${VERSION}`],
        { stdio: ['ignore', 'ignore', 'pipe'], timeout: 180000 });
}

export async function load(dir) {
    const bins = folder(dir);
    const llama = createRequire(import.meta.url)(path.join(bins, 'llama-addon.node'));
    llama.setLogger((level, message) => level <= 2 && process.stderr.write(`llama.cpp: ${message}`));
    llama.setLoggerLogLevel(2); // errors
    llama.loadBackends(bins);
    await llama.init();
    llama.release = JSON.parse(fs.readFileSync(path.join(bins, '_nlcBuildMetadata.json'))).buildOptions.llamaCpp.release;
    return llama;
}

const TYPES = { f32: 0, f16: 1 };

export async function open(llama, file, { threads, context, batch, cache = 'f16', flash = false }) {
    const model = new llama.AddonModel(file, { addonExports: llama, gpuLayers: 0, useMmap: true });
    if (!(await model.init())) throw new Error(`llama.cpp does not load ${file}`);
    const type = TYPES[cache];
    const x = new llama.AddonContext(model, {
        contextSize: context, batchSize: batch, sequences: 1, flashAttention: flash, threads, kvCacheKeyType: type, kvCacheValueType: type,
    });
    if (!(await x.init())) throw new Error(`llama.cpp makes no context for ${file}`);
    const sampler = new llama.AddonSampler(model);
    sampler.applyConfig({ temperature: 0 });
    let at = 0;
    return {
        async feed(ids, { all = false } = {}) {
            const wanted = all ? ids.map((_, i) => i) : [ids.length - 1];
            x.initBatch(ids.length);
            const places = x.addToBatch(0, at, Uint32Array.from(ids), Uint32Array.from(wanted));
            await x.decodeBatch();
            at += ids.length;
            return [...places];
        },
        async logits(place) {
            const pairs = (await x.sampleToken(place, sampler, false, false, true, false))[3], out = new Float32Array(pairs.length / 2);
            for (let i = 0; i < pairs.length; i += 2) out[pairs[i]] = pairs[i + 1];
            return out;
        },
        greedy: (place) => x.sampleToken(place, sampler),
        tokenize: (text) => [...model.tokenize(text, true)],
        clear() {
            x.disposeSequence(0);
            at = 0;
        },
        async close() {
            sampler.dispose();
            await x.dispose();
            await model.dispose();
        },
    };
}
