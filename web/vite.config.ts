import { defineConfig } from "vite";

// What the page may do, as a header beside the same policy in index.html, which
// travels with the files to any server; a header alone can forbid framing.
// Cross-origin isolation (the second and third) is what threads of WebAssembly
// ask for.
const headers = {
  "Content-Security-Policy": "frame-ancestors 'none'",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
};

export default defineConfig({
  // Relative addresses: the files work from any folder of a server.
  base: "./",
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: false },
  preview: { host: "localhost", port: 4173, strictPort: true, headers },
});
