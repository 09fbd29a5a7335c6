// The browser talks to Vite only; Vite hands /bff and /api on to the application.
// PUBLIC_URL of the application is Vite's address: http://localhost:5173
const backend = process.env.BACKEND ?? "http://127.0.0.1:8000";

export default {
  server: { proxy: { "/bff": backend, "/api": backend } },
};
