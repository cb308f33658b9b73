import{j as r}from"./index-ddfcc940.js";function o(){return r.jsx("p",{children:"soon"})}export{o as OverviewPage};
